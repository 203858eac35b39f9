"""Jobs made out of what an application asks for."""

from typing import Any

from reasonchip_broker.peer.cookies import new_cookie
from reasonchip_broker.peer.exchange import Exchange
from reasonchip_broker.peer.job import Job
from reasonchip_broker.peer.options import Options, RunMetas, delay_s, say_the_same
from reasonchip_broker.peer.payloads import encode_tagged


class JobMaker:
    """Makes jobs of an exchange, all with the same options; may be used from several threads. `nonce` names the submitter."""

    __slots__ = ("_exchange", "_metas", "_nonce", "options")

    def __init__(self, exchange: Exchange, options: Options, nonce: bytes, metas: RunMetas | None = None) -> None:
        self.options = options
        self._exchange = exchange
        self._nonce = nonce
        self._metas = metas or RunMetas(options, nonce)

    def with_options(self, options: Options) -> "JobMaker":
        """One with these options."""
        metas = self._metas if say_the_same(self.options, options) else None
        return JobMaker(self._exchange, options, self._nonce, metas)

    def make(self, pipeline: str, variables: Any) -> Job:
        """A job, not posted yet. Raises TypeError and ValueError for what can't be asked for."""
        options = self.options
        payload, encoding = encode_tagged(variables, options.encoding)
        cookie = new_cookie() if options.cookie is None else options.cookie.bytes
        job = Job(self._exchange, cookie, self._metas.of(pipeline, encoding), payload, options.detach, options.encoding)
        if options.follow:
            stream = job._stream = self._exchange.inflow(cookie)
            stream.by_run = True
        return job

    def post(self, job: Job) -> None:
        """Send it, or hold it; in the loop's thread."""
        options = self.options
        not_before = options.not_before
        self._exchange.post(job, options.timeout, options.deadline_s, 0.0 if not_before is None else delay_s(not_before))

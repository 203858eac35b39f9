import msgspec

from reasonchip_broker.cli.demo.findings import SUMMED, FileFindings, PackageFindings, TreeFindings


def test_findings_come_back_from_the_wire_as_they_were():
    file = FileFindings(path=b"caf\xe9.py", worker="worker-1", lines=3, terms={"naïve": 2})
    package = PackageFindings(package="(top level)", files=1, lines=3, terms={"naïve": 2}, documents={"naïve": 1})
    tree = TreeFindings(files=1, packages=[package], documents={})
    for value in (file, package, tree):
        plain = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
        assert msgspec.convert(plain, type(value)) == value


def test_everything_that_a_package_sums_is_a_number_of_its_files():
    assert set(SUMMED[1:]) <= set(FileFindings.__struct_fields__)
    assert set(SUMMED) <= set(PackageFindings.__struct_fields__)

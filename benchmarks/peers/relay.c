/* A byte relay: the floor under all brokers.
 *
 * The first client that connects is joined with the first worker, the second with the second, and so on; whatever one end of a pair
 * says is written to the other end, as it came. It reads and writes, and decides nothing. A broker that does more can't cost less.
 *
 *     relay tcp             two listeners on free ports of 127.0.0.1
 *     relay unix DIRECTORY  clients.sock and workers.sock in a directory
 *
 * prints `ready clients=URL workers=URL` once it listens, and runs until it is killed. A pair that one end leaves is parted.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, PEERS_MAX = 4096, EVENTS = 256 };

struct end {
    int socket;
    int is_listener, side, is_gone;
    struct end *other;
    char *pending; /* what the other end had no room for, in `size` bytes from `from` on */
    size_t from, size;
};

static int epoll;
static struct end *waiting[2][PEERS_MAX];
static int number[2];
static char buffer[BUFFER];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(struct end *end, unsigned events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = end};
    if (epoll_ctl(epoll, operation, end->socket, &event) < 0) fail("epoll_ctl");
}

static struct end *make(int socket, int is_listener, int side) {
    struct end *end = calloc(1, sizeof *end);
    if (end == NULL) fail("calloc");
    end->socket = socket;
    end->is_listener = is_listener;
    end->side = side;
    return end;
}

static void listen_at(const char *kind, const char *directory, int side) {
    static const char *names[2] = {"clients", "workers"};
    int socket_ = -1;
    printf(" %s=", names[side]);
    if (strcmp(kind, "unix") == 0) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        snprintf(address.sun_path, sizeof address.sun_path, "%s/%s.sock", directory, names[side]);
        socket_ = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (bind(socket_, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
        printf("unix://%s", address.sun_path);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof address;
        socket_ = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (bind(socket_, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
        if (getsockname(socket_, (struct sockaddr *)&address, &size) < 0) fail("getsockname");
        printf("tcp://127.0.0.1:%d", ntohs(address.sin_port));
    }
    if (listen(socket_, 1024) < 0) fail("listen");
    watch(make(socket_, 1, side), EPOLLIN, EPOLL_CTL_ADD);
}

static void take(struct end *listener) {
    int socket_ = accept4(listener->socket, NULL, NULL, SOCK_NONBLOCK), on = 1, side = listener->side, place;
    struct end *end, *other;
    if (socket_ < 0) return;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    end = make(socket_, 0, side);
    place = number[side]++;
    if (place >= PEERS_MAX) exit(1);
    waiting[side][place] = end;
    other = waiting[!side][place];
    if (other != NULL) {
        end->other = other;
        other->other = end;
        watch(end, EPOLLIN, EPOLL_CTL_ADD);
        watch(other, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* Closes both ends of a pair. An event of this turn may still name them: they are not freed. */
static void part(struct end *end) {
    if (end->is_gone) return;
    end->is_gone = end->other->is_gone = 1;
    close(end->socket);
    close(end->other->socket);
}

/* Writes what an end was sent and has had no room for. Until all of it is gone, the other end is not read from. */
static void flush(struct end *end) {
    while (end->from < end->size) {
        ssize_t written = write(end->socket, end->pending + end->from, end->size - end->from);
        if (written < 0) {
            if (errno != EAGAIN) part(end);
            return;
        }
        end->from += written;
    }
    free(end->pending);
    end->pending = NULL;
    end->from = end->size = 0;
    watch(end, EPOLLIN, EPOLL_CTL_MOD);
    watch(end->other, EPOLLIN, EPOLL_CTL_MOD);
}

static void relay(struct end *end) {
    ssize_t size = read(end->socket, buffer, BUFFER), written;
    struct end *other = end->other;
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN) part(end);
        return;
    }
    written = write(other->socket, buffer, size);
    if (written < 0) {
        if (errno != EAGAIN) {
            part(end);
            return;
        }
        written = 0;
    }
    if (written == size) return;
    other->pending = malloc(size - written);
    if (other->pending == NULL) fail("malloc");
    memcpy(other->pending, buffer + written, size - written);
    other->size = size - written;
    watch(other, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    watch(end, end->pending != NULL ? EPOLLOUT : 0, EPOLL_CTL_MOD);
}

int main(int count, char **arguments) {
    struct epoll_event events[EVENTS];
    if (count < 2) {
        fprintf(stderr, "usage: relay tcp | relay unix DIRECTORY\n");
        return 2;
    }
    epoll = epoll_create1(0);
    if (epoll < 0) fail("epoll_create1");
    printf("ready");
    for (int side = 0; side < 2; side++) listen_at(arguments[1], count > 2 ? arguments[2] : ".", side);
    printf("\n");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        for (int place = 0; place < ready; place++) {
            struct end *end = events[place].data.ptr;
            if (end->is_listener) {
                take(end);
                continue;
            }
            if (events[place].events & EPOLLOUT && !end->is_gone) flush(end);
            if (events[place].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !end->is_gone && end->other->pending == NULL) relay(end);
        }
    }
}

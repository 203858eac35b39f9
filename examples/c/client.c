/* Runs one job on a ReasonChip broker. POSIX, C11, no libraries; written from docs/reference/protocol.md alone.
 *
 *     cc -std=c11 -D_POSIX_C_SOURCE=200809L -o client client.c
 *     ./client tcp://127.0.0.1:51500 text.count '{"text": "a b"}'
 *     ./client unix:///run/clients.sock text.count
 *
 * The result goes to stdout, as JSON or as the bytes that it is; what else there is to say, to stderr. Ctrl-C cancels the job, a
 * second one gives up. The exit code is 0 for OK, the outcome's code (1-9) for a job that failed, the refusal's code (32-63, 9) for a
 * job that was not taken, 64 for wrong arguments, 69 if the broker is not there or goes away, 76 if it breaks the protocol.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HELLO = 1, WELCOME, PING, PONG, GOODBYE, REPLY, RUN = 17, RESULT, CANCEL };
enum { OK = 0, TOO_LARGE = 9, UNSUPPORTED_PACKET_TYPE = 33, QUEUED = 64, DISPATCHED, CANCELLING };
enum { NORMAL = 128 };
enum { EXIT_USAGE = 64, EXIT_UNAVAILABLE = 69, EXIT_PROTOCOL = 76 };
enum { HEADER = 32, LENGTH_MIN = 28, DEPTH_MAX = 64, GREETING_BYTES_MAX = 65536 };

static int broker = -1;
static uint32_t frame_limit = GREETING_BYTES_MAX, beat_ms = 10000, dead_ms = 30000;
static uint8_t cookie[16];
static const uint8_t no_cookie[16];
static volatile sig_atomic_t interrupts;
static sigset_t while_waiting; /* SIGINT comes through only while there is nothing else to do */

static _Noreturn void quit(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(code);
}

/* ---- MessagePack: a cursor over bytes that never leaves them --------------------------------------------------------------- */

typedef struct { const uint8_t *at, *end; } Cursor;
typedef enum { NIL, BOOLEAN, UNSIGNED, NEGATIVE, REAL, STRING, BINARY, ARRAY, MAP, EXTENSION } Kind;
typedef struct {
    Kind kind;
    uint64_t number;     /* the value; of ARRAY and MAP how many items or pairs follow; of the next three their length */
    double real;
    const uint8_t *data; /* of STRING, BINARY and EXTENSION */
} Value;

static uint64_t take(Cursor *cursor, unsigned bytes)
{
    uint64_t number = 0;
    if ((size_t)(cursor->end - cursor->at) < bytes)
        quit(EXIT_PROTOCOL, "the broker sent MessagePack that is cut short");
    while (bytes--)
        number = number << 8 | *cursor->at++;
    return number;
}

static Value with_data(Cursor *cursor, Kind kind, uint64_t length)
{
    Value value = {kind, length, 0, cursor->at};
    if ((uint64_t)(cursor->end - cursor->at) < length)
        quit(EXIT_PROTOCOL, "the broker sent MessagePack that is cut short");
    cursor->at += length;
    return value;
}

static Value extension(Cursor *cursor, uint64_t length)
{
    take(cursor, 1); /* its type */
    return with_data(cursor, EXTENSION, length);
}

static Value real(uint64_t bits, int is_double)
{
    Value value = {.kind = REAL};
    float narrow;
    uint32_t narrow_bits = (uint32_t)bits;
    if (is_double) {
        memcpy(&value.real, &bits, sizeof bits);
    } else {
        memcpy(&narrow, &narrow_bits, sizeof narrow);
        value.real = narrow;
    }
    return value;
}

static Value integer(int64_t number)
{
    return (Value){.kind = number < 0 ? NEGATIVE : UNSIGNED, .number = (uint64_t)number};
}

static Value next(Cursor *cursor)
{
    uint8_t first = (uint8_t)take(cursor, 1);
    if (first <= 0x7f) return (Value){.kind = UNSIGNED, .number = first};
    if (first <= 0x8f) return (Value){.kind = MAP, .number = first & 15};
    if (first <= 0x9f) return (Value){.kind = ARRAY, .number = first & 15};
    if (first <= 0xbf) return with_data(cursor, STRING, first & 31);
    if (first >= 0xe0) return integer((int8_t)first);
    switch (first) {
    case 0xc0: return (Value){.kind = NIL};
    case 0xc2: case 0xc3: return (Value){.kind = BOOLEAN, .number = first & 1};
    case 0xc4: case 0xc5: case 0xc6: return with_data(cursor, BINARY, take(cursor, 1u << (first - 0xc4)));
    case 0xc7: case 0xc8: case 0xc9: return extension(cursor, take(cursor, 1u << (first - 0xc7)));
    case 0xca: case 0xcb: return real(take(cursor, first == 0xcb ? 8 : 4), first == 0xcb);
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        return (Value){.kind = UNSIGNED, .number = take(cursor, 1u << (first - 0xcc))};
    case 0xd0: return integer((int8_t)take(cursor, 1));
    case 0xd1: return integer((int16_t)take(cursor, 2));
    case 0xd2: return integer((int32_t)take(cursor, 4));
    case 0xd3: return integer((int64_t)take(cursor, 8));
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return extension(cursor, 1u << (first - 0xd4));
    case 0xd9: case 0xda: case 0xdb: return with_data(cursor, STRING, take(cursor, 1u << (first - 0xd9)));
    case 0xdc: case 0xdd: return (Value){.kind = ARRAY, .number = take(cursor, first == 0xdc ? 2 : 4)};
    case 0xde: case 0xdf: return (Value){.kind = MAP, .number = take(cursor, first == 0xde ? 2 : 4)};
    default: quit(EXIT_PROTOCOL, "the broker sent MessagePack with a byte that MessagePack does not have");
    }
}

static void skip(Cursor *cursor, int depth)
{
    Value value = next(cursor);
    if (depth > DEPTH_MAX)
        quit(EXIT_PROTOCOL, "the broker sent MessagePack that is nested too deeply");
    if (value.kind == MAP || value.kind == ARRAY)
        for (uint64_t left = value.number * (value.kind == MAP ? 2 : 1); left; left--)
            skip(cursor, depth + 1);
}

/* The cursor at the value of a key of a map, or one at nothing. */
static Cursor find(Cursor map, const char *key)
{
    Cursor nothing = {NULL, NULL};
    Value value;
    if (map.at == map.end || (value = next(&map)).kind != MAP)
        return nothing;
    for (uint64_t left = value.number; left; left--) {
        Value name = next(&map);
        if (name.kind == STRING && name.number == strlen(key) && !memcmp(name.data, key, name.number))
            return map;
        if (name.kind == MAP || name.kind == ARRAY)
            quit(EXIT_PROTOCOL, "the broker sent a map whose keys are no text");
        skip(&map, 0);
    }
    return nothing;
}

static uint64_t find_number(Cursor map, const char *key, uint64_t otherwise)
{
    Cursor found = find(map, key);
    Value value;
    if (!found.at)
        return otherwise;
    value = next(&found);
    return value.kind == UNSIGNED || value.kind == BOOLEAN ? value.number : otherwise;
}

static Value find_text(Cursor map, const char *key)
{
    Cursor found = find(map, key);
    Value value = {.kind = STRING, .data = (const uint8_t *)""};
    if (found.at) {
        Value there = next(&found);
        if (there.kind == STRING)
            value = there;
    }
    return value;
}

/* ---- People read it: text without control characters, MessagePack as JSON -------------------------------------------------- */

static void put_text(FILE *file, const uint8_t *text, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        fputc((text[i] < 0x20 && text[i] != '\n') || text[i] == 0x7f ? '?' : text[i], file);
}

static void put_quoted(const uint8_t *text, uint64_t length)
{
    putchar('"');
    for (uint64_t i = 0; i < length; i++) {
        if (text[i] == '"' || text[i] == '\\')
            printf("\\%c", text[i]);
        else if (text[i] < 0x20 || text[i] == 0x7f)
            printf("\\u%04x", text[i]);
        else
            putchar(text[i]);
    }
    putchar('"');
}

static void put_json(Cursor *cursor, int depth)
{
    Value value = next(cursor);
    if (depth > DEPTH_MAX)
        quit(EXIT_PROTOCOL, "the result is nested too deeply");
    switch (value.kind) {
    case NIL: fputs("null", stdout); break;
    case BOOLEAN: fputs(value.number ? "true" : "false", stdout); break;
    case UNSIGNED: printf("%llu", (unsigned long long)value.number); break;
    case NEGATIVE: printf("%lld", (long long)value.number); break;
    case REAL: printf("%.17g", value.real); break;
    case STRING: put_quoted(value.data, value.number); break;
    case BINARY: case EXTENSION:
        putchar('"');
        for (uint64_t i = 0; i < value.number; i++)
            printf("%02x", value.data[i]);
        putchar('"');
        break;
    case ARRAY: case MAP:
        putchar(value.kind == MAP ? '{' : '[');
        for (uint64_t i = 0; i < value.number; i++) {
            if (i)
                fputs(", ", stdout);
            if (value.kind == MAP) {
                put_json(cursor, depth + 1);
                fputs(": ", stdout);
            }
            put_json(cursor, depth + 1);
        }
        putchar(value.kind == MAP ? '}' : ']');
    }
}

/* ---- Frames ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t type, code;
    uint8_t cookie[16];
    uint32_t number;
    Cursor meta, payload;
} Frame;

static uint8_t *received;
static size_t received_bytes, consumed_bytes, room_bytes;
static int64_t heard_at_ms;

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void put_number(uint8_t *at, uint32_t number, unsigned bytes)
{
    while (bytes--) {
        at[bytes] = (uint8_t)number;
        number >>= 8;
    }
}

static uint32_t get_number(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void send_bytes(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    while (bytes) {
        ssize_t sent = send(broker, at, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            quit(EXIT_UNAVAILABLE, "the connection to the broker is lost: %s", strerror(errno));
        at += sent;
        bytes -= (size_t)sent;
    }
}

static void send_frame(uint8_t type, uint16_t attempt, const uint8_t id[16], uint32_t number,
                       const void *meta, size_t meta_bytes, const void *payload, size_t payload_bytes)
{
    uint8_t header[HEADER] = {0};
    if (LENGTH_MIN + meta_bytes + payload_bytes > frame_limit)
        quit(TOO_LARGE, "the variables are too large: the broker takes frames of %lu bytes", (unsigned long)frame_limit);
    put_number(header, (uint32_t)(LENGTH_MIN + meta_bytes + payload_bytes), 4);
    header[4] = type;
    put_number(header + 6, attempt, 2);
    memcpy(header + 8, id, 16);
    put_number(header + 24, number, 4);
    put_number(header + 28, (uint32_t)meta_bytes, 4);
    send_bytes(header, HEADER);
    if (meta_bytes)
        send_bytes(meta, meta_bytes);
    if (payload_bytes)
        send_bytes(payload, payload_bytes);
}

static void cancel_if_interrupted(void)
{
    static int told;
    const uint8_t meta[] = {0x81, 0xa3, 'w', 'h', 'y', 0xa6, 'C', 't', 'r', 'l', '-', 'C'};
    if (interrupts > 1)
        quit(EXIT_UNAVAILABLE, "gave up; the job may go on");
    if (interrupts && !told) {
        told = 1;
        send_frame(CANCEL, 0, cookie, 1, meta, sizeof meta, NULL, 0);
    }
}

/* Wait for more bytes; meanwhile keep the connection alive, and notice when it is not. */
static void receive(void)
{
    struct timespec patience = {beat_ms / 1000, (long)(beat_ms % 1000) * 1000000};
    fd_set wait;
    int ready;
    ssize_t got;
    if (room_bytes - received_bytes < 4096) {
        room_bytes = room_bytes * 2 + 65536;
        if (!(received = realloc(received, room_bytes)))
            quit(EXIT_UNAVAILABLE, "out of memory");
    }
    for (;;) {
        FD_ZERO(&wait);
        FD_SET(broker, &wait);
        if ((ready = pselect(broker + 1, &wait, NULL, NULL, &patience, &while_waiting)) > 0)
            break;
        if (ready < 0 && errno != EINTR)
            quit(EXIT_UNAVAILABLE, "pselect: %s", strerror(errno));
        cancel_if_interrupted();
        if (now_ms() - heard_at_ms >= dead_ms)
            quit(EXIT_UNAVAILABLE, "nothing was heard of the broker for %lu ms", (unsigned long)dead_ms);
        if (ready == 0)
            send_frame(PING, 0, no_cookie, 0, NULL, 0, NULL, 0);
    }
    got = recv(broker, received + received_bytes, room_bytes - received_bytes, 0);
    if (got < 0 && errno == EINTR)
        return;
    if (got <= 0)
        quit(EXIT_UNAVAILABLE, "the broker closed the connection%s%s", got ? ": " : "", got ? strerror(errno) : "");
    received_bytes += (size_t)got;
    heard_at_ms = now_ms();
}

/* The next frame; its meta and payload are valid until the next call. */
static Frame next_frame(void)
{
    Frame frame;
    const uint8_t *at;
    uint32_t length, meta_length;
    if (consumed_bytes) {
        received_bytes -= consumed_bytes;
        memmove(received, received + consumed_bytes, received_bytes);
        consumed_bytes = 0;
    }
    while (received_bytes < HEADER)
        receive();
    length = get_number(received);
    meta_length = get_number(received + 28);
    if (length < LENGTH_MIN || length > frame_limit || meta_length > length - LENGTH_MIN)
        quit(EXIT_PROTOCOL, "the broker sent a frame of length %lu with %lu bytes of meta", (unsigned long)length,
             (unsigned long)meta_length);
    while (received_bytes < 4 + (size_t)length)
        receive();
    consumed_bytes = 4 + (size_t)length;
    at = received;
    frame.type = at[4];
    frame.code = at[5];
    memcpy(frame.cookie, at + 8, 16);
    frame.number = get_number(at + 24);
    frame.meta = (Cursor){at + HEADER, at + HEADER + meta_length};
    frame.payload = (Cursor){at + HEADER + meta_length, at + consumed_bytes};
    return frame;
}

/* ---- The conversation ------------------------------------------------------------------------------------------------------ */

static void interrupted(int number)
{
    (void)number;
    interrupts++;
}

static int dial_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int made = socket(AF_UNIX, SOCK_STREAM, 0);
    if (strlen(path) >= sizeof address.sun_path)
        quit(EXIT_USAGE, "%s: too long for a Unix socket", path);
    strcpy(address.sun_path, path);
    if (made < 0 || connect(made, (struct sockaddr *)&address, sizeof address))
        quit(EXIT_UNAVAILABLE, "%s: %s", path, strerror(errno));
    return made;
}

static int dial_tcp(const char *where)
{
    char host[256];
    const char *colon = strrchr(where, ':'), *port = colon ? colon + 1 : "51500";
    size_t length = colon ? (size_t)(colon - where) : strlen(where);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *all, *one;
    int made = -1, error, on = 1;
    if (length && where[0] == '[' && where[length - 1] == ']') {
        where++;
        length -= 2;
    }
    if (length >= sizeof host)
        quit(EXIT_USAGE, "%s: too long", where);
    memcpy(host, where, length);
    host[length] = 0;
    if ((error = getaddrinfo(host, port, &hints, &all)))
        quit(EXIT_UNAVAILABLE, "%s: %s", host, gai_strerror(error));
    for (one = all; one; one = one->ai_next) {
        made = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        if (made >= 0 && !connect(made, one->ai_addr, one->ai_addrlen))
            break;
        if (made >= 0)
            close(made);
        made = -1;
    }
    freeaddrinfo(all);
    if (made < 0)
        quit(EXIT_UNAVAILABLE, "%s:%s: %s", host, port, strerror(errno));
    setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return made;
}

static void greet(void)
{
    static const uint8_t preface[] = {'R', 'C', 'B', 1};
    static const uint8_t hello[] = {0x82, 0xa2, 's', 'w', 0xa9, 'c', '-', 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0xa1, 'v', 0xa1, '1'};
    Frame frame;
    heard_at_ms = now_ms();
    send_bytes(preface, sizeof preface);
    send_frame(HELLO, 0, no_cookie, 0, hello, sizeof hello, NULL, 0);
    frame = next_frame();
    if (frame.type == GOODBYE) {
        Value sentence = find_text(frame.meta, "msg");
        fprintf(stderr, "the broker said goodbye (%d): ", frame.code);
        put_text(stderr, sentence.data, sentence.number);
        quit(EXIT_UNAVAILABLE, "");
    }
    if (frame.type != WELCOME)
        quit(EXIT_PROTOCOL, "the broker began with packet type %d", frame.type);
    frame_limit = (uint32_t)find_number(frame.meta, "frame", frame_limit);
    beat_ms = (uint32_t)find_number(frame.meta, "beat", beat_ms);
    dead_ms = (uint32_t)find_number(frame.meta, "dead", dead_ms);
}

static void run(const char *pipeline, const char *variables)
{
    uint8_t meta[1024], *at = meta;
    size_t name_bytes = strlen(pipeline);
    FILE *random = fopen("/dev/urandom", "rb");
    if (!random || fread(cookie, 1, 16, random) != 16)
        quit(EXIT_UNAVAILABLE, "no random bytes for the cookie");
    fclose(random);
    cookie[6] = (cookie[6] & 0x0f) | 0x40; /* UUID version 4 */
    cookie[8] = (cookie[8] & 0x3f) | 0x80;
    if (name_bytes > sizeof meta - 32)
        quit(EXIT_USAGE, "the pipeline's name is too long");
    *at++ = 0x82;
    *at++ = 0xa1;
    *at++ = 'p';
    *at++ = 0xda;
    put_number(at, (uint32_t)name_bytes, 2);
    memcpy(at + 2, pipeline, name_bytes);
    at += 2 + name_bytes;
    memcpy(at, "\xa3" "enc" "\xa4" "json", 9);
    at += 9;
    send_frame(RUN, 1, cookie, 0, meta, (size_t)(at - meta), variables, strlen(variables));
}

/* An OK result, on stdout. */
static void put_result(Cursor meta, Cursor payload)
{
    Value encoding = find_text(meta, "enc");
    size_t length = (size_t)(payload.end - payload.at);
    if (encoding.number == 7 && !memcmp(encoding.data, "msgpack", 7) && length)
        put_json(&payload, 0);
    else if (!length && (encoding.number == 0 || encoding.number == 7 || !memcmp(encoding.data, "json", 4)))
        fputs("null", stdout);
    else
        fwrite(payload.at, 1, length, stdout);
    putchar('\n');
    if (fflush(stdout))
        quit(EXIT_UNAVAILABLE, "the result can't be written: %s", strerror(errno));
}

/* What went wrong, on stderr. */
static void put_failure(int code, Cursor meta, Cursor payload)
{
    Value type = find_text(payload, "type"), error = find_text(payload, "error");
    Cursor stack = find(payload, "stack");
    fprintf(stderr, "the job ended with code %d%s: ", code, find_number(meta, "ran", 1) ? "" : " and never ran");
    put_text(stderr, type.data, type.number);
    if (type.number)
        fputs(": ", stderr);
    put_text(stderr, error.data, error.number);
    fputc('\n', stderr);
    if (stack.at) {
        Value lines = next(&stack);
        for (uint64_t left = lines.kind == ARRAY ? lines.number : 0; left; left--) {
            Value line = next(&stack);
            if (line.kind != STRING)
                break;
            fputs("    ", stderr);
            put_text(stderr, line.data, line.number);
            fputc('\n', stderr);
        }
    }
}

/* One frame after WELCOME; the exit code once the job is over, else -1. */
static int handle(Frame frame)
{
    int mine = !memcmp(frame.cookie, cookie, 16);
    Value sentence;
    switch (frame.type) {
    case PING:
        send_frame(PONG, 0, no_cookie, frame.number, NULL, 0, NULL, 0);
        return -1;
    case RESULT:
        if (!mine)
            return -1;
        if (frame.code == OK)
            put_result(frame.meta, frame.payload);
        else
            put_failure(frame.code, frame.meta, frame.payload);
        return frame.code;
    case REPLY:
        sentence = find_text(frame.meta, "msg");
        if (!mine && find_number(frame.meta, "to", 0) != CANCEL)
            return -1;
        fprintf(stderr, "the broker says (%d): ", frame.code);
        put_text(stderr, sentence.data, sentence.number);
        fputc('\n', stderr);
        if (mine && find_number(frame.meta, "to", 0) == RUN && (frame.code == TOO_LARGE || (frame.code >= 32 && frame.code < 64)))
            return frame.code;
        return -1;
    case GOODBYE:
        sentence = find_text(frame.meta, "msg");
        fprintf(stderr, "the broker said goodbye (%d): ", frame.code);
        put_text(stderr, sentence.data, sentence.number);
        fputc('\n', stderr);
        return EXIT_UNAVAILABLE;
    default: /* a PONG, or what a later version has */
        return -1;
    }
}

int main(int count, char **arguments)
{
    struct sigaction action = {.sa_handler = interrupted};
    sigset_t only_sigint;
    int code = -1;
    if (count < 3 || count > 4) {
        fprintf(stderr, "usage: %s tcp://HOST:PORT|unix:///PATH PIPELINE [VARIABLES as JSON]\n", arguments[0]);
        return EXIT_USAGE;
    }
    if (!strncmp(arguments[1], "unix://", 7))
        broker = dial_unix(arguments[1] + 7);
    else if (!strncmp(arguments[1], "tcp://", 6))
        broker = dial_tcp(arguments[1] + 6);
    else
        quit(EXIT_USAGE, "%s: neither tcp://HOST:PORT nor unix:///PATH", arguments[1]);
    sigprocmask(SIG_BLOCK, NULL, &while_waiting);
    greet();
    sigemptyset(&only_sigint);
    sigaddset(&only_sigint, SIGINT);
    sigprocmask(SIG_BLOCK, &only_sigint, NULL);
    sigaction(SIGINT, &action, NULL);
    run(arguments[2], count > 3 ? arguments[3] : "");
    while (code < 0) {
        cancel_if_interrupted();
        code = handle(next_frame());
    }
    close(broker);
    return code;
}

/* Loaded before the C library, it moves the wall clock by DAYS as soon as the file CLOCK_MOVES exists. The monotonic clock is left alone.
 * Python asks for the time with clock_gettime; the others are here so that nobody finds a way around. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long moved(void) {
    const char *file = getenv("CLOCK_MOVES"), *days = getenv("CLOCK_DAYS");
    return file && days && access(file, F_OK) == 0 ? atol(days) * 86400 : 0;
}

static int is_wall(clockid_t clock) {
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && is_wall(clock)) now->tv_sec += moved();
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed) now->tv_sec += moved();
    return failed;
}

time_t time(time_t *now) {
    static time_t (*real)(time_t *);
    if (!real) real = (time_t (*)(time_t *))dlsym(RTLD_NEXT, "time");
    time_t said = real(NULL) + moved();
    if (now) *now = said;
    return said;
}

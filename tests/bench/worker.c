/* The timed work that no common program does, in C so that the client costs next to nothing.
 *
 *     worker WORD ARGUMENT...      prints the seconds it took and an answer that must be the same on every file system
 *
 * Names and buffers are ready before the clock starts; it stops when the last call has returned.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MEBI (1 << 20)

static double begun;
static const char *doing;

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

/* Passes a result through; a failed call ends the program. */
static long sure(long result)
{
    if (result < 0) {
        fprintf(stderr, "worker %s: %s\n", doing, strerror(errno));
        exit(1);
    }
    return result;
}

static int done(uint64_t answer)
{
    printf("%.7f %" PRIu64 "\n", now() - begun, answer);
    return 0;
}

static uint64_t state = 88172645463325252u;

static uint64_t chance(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static char *noise(size_t size)
{
    uint64_t *block = malloc(size);
    for (size_t at = 0; at < size / sizeof *block; at++)
        block[at] = chance();
    return (char *)block;
}

static uint64_t sum(const char *data, size_t size)
{
    uint64_t total = 0;
    for (size_t at = 0; at + 8 <= size; at += 512)
        total = total * 31 + *(const uint64_t *)(data + at);
    return total;
}

/* create, rename, unlink: COUNT files in the working directory. */
static int names(const char *word, long count)
{
    char(*old)[24] = calloc(count, 24), (*new)[24] = calloc(count, 24);
    for (long at = 0; at < count; at++) {
        snprintf(old[at], 24, "f%ld", at);
        snprintf(new[at], 24, "g%ld", at);
    }
    begun = now();
    for (long at = 0; at < count; at++) {
        if (*word == 'c') {
            int fd = sure(open(old[at], O_CREAT | O_EXCL | O_WRONLY, 0644));
            sure(write(fd, "hello, world\n", 13));
            sure(close(fd));
        } else if (*word == 'r') {
            sure(rename(old[at], new[at]));
        } else {
            sure(unlink(old[at]));
        }
    }
    return done(count);
}

/* stat LIST TIMES: lstat of each path in a file of lines, again and again. */
static int storm(const char *list, long times)
{
    struct stat found;
    int fd = sure(open(list, O_RDONLY));
    sure(fstat(fd, &found));
    size_t size = found.st_size;
    char *text = malloc(size + 1);
    sure(read(fd, text, size));
    for (size_t at = 0; at < size; at++)
        if (text[at] == '\n')
            text[at] = 0;
    uint64_t total = 0;
    begun = now();
    while (times--)
        for (char *path = text; path < text + size; path += strlen(path) + 1) {
            sure(lstat(path, &found));
            total += found.st_size + 1;
        }
    return done(total);
}

/* list PATH ATTRIBUTES: read a directory, with lstat of each name if ATTRIBUTES is 1. */
static int list(const char *path, int attributes)
{
    uint64_t total = 0;
    struct dirent *entry;
    struct stat found;
    begun = now();
    DIR *directory = opendir(path);
    sure(directory ? 0 : -1);
    while ((entry = readdir(directory))) {
        total++;
        if (attributes) {
            sure(fstatat(dirfd(directory), entry->d_name, &found, AT_SYMLINK_NOFOLLOW));
            total += S_ISREG(found.st_mode);
        }
    }
    closedir(directory);
    return done(total);
}

/* write PATH BYTES BLOCK SYNC: make a file, block by block; fsync it if SYNC is 1; close it. */
static int fill(const char *path, long bytes, long block, int sync)
{
    char *data = noise(block);
    begun = now();
    int fd = sure(open(path, O_CREAT | O_EXCL | O_WRONLY, 0644));
    for (long at = 0; at < bytes; at += block)
        if (sure(write(fd, data, block)) != block)
            return 1;
    if (sync)
        sure(fsync(fd));
    sure(close(fd));
    return done(bytes);
}

/* read PATH: a whole file. */
static int take(const char *path)
{
    char *data = malloc(MEBI);
    uint64_t total = 0;
    long got;
    begun = now();
    int fd = sure(open(path, O_RDONLY));
    while ((got = sure(read(fd, data, MEBI))))
        total = total * 31 + sum(data, got);
    sure(close(fd));
    return done(total);
}

/* pread, pwrite: COUNT aligned pages at random places of a file; the writes end with fsync. */
static int jump(const char *path, long count, int writing)
{
    struct stat found;
    char *data = noise(PAGE);
    uint64_t total = 0;
    begun = now();
    int fd = sure(open(path, writing ? O_RDWR : O_RDONLY));
    sure(fstat(fd, &found));
    for (long at = 0; at < count; at++) {
        off_t place = (off_t)(chance() % (found.st_size / PAGE)) * PAGE;
        if (writing) {
            sure(pwrite(fd, data, PAGE, place));
        } else {
            sure(pread(fd, data, PAGE, place));
            total = total * 31 + sum(data, PAGE);
        }
    }
    if (writing)
        sure(fsync(fd));
    sure(close(fd));
    return done(total);
}

/* map PATH STEP: map a file and change a byte every STEP bytes; msync. */
static int map(const char *path, long step)
{
    struct stat found;
    begun = now();
    int fd = sure(open(path, O_RDWR));
    sure(fstat(fd, &found));
    char *view = mmap(NULL, found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    sure(view == MAP_FAILED ? -1 : 0);
    for (long at = 0; at < found.st_size; at += step)
        view[at]++;
    sure(msync(view, found.st_size, MS_SYNC));
    sure(munmap(view, found.st_size));
    sure(close(fd));
    return done(0);
}

/* poke PATH: one byte into a file, and fsync. */
static int poke(const char *path)
{
    begun = now();
    int fd = sure(open(path, O_RDWR));
    sure(pwrite(fd, "!", 1, 100));
    sure(fsync(fd));
    sure(close(fd));
    return done(0);
}

int main(int count, char **words)
{
    if (count < 3)
        return 2;
    const char *word = doing = words[1], *path = words[2];
    long first = count > 3 ? atol(words[3]) : 0;
    if (!strcmp(word, "create") || !strcmp(word, "rename") || !strcmp(word, "unlink"))
        return names(word, atol(path));
    if (!strcmp(word, "stat"))
        return storm(path, first);
    if (!strcmp(word, "list"))
        return list(path, first);
    if (!strcmp(word, "write") && count == 6)
        return fill(path, first, atol(words[4]), atoi(words[5]));
    if (!strcmp(word, "read"))
        return take(path);
    if (!strcmp(word, "pread") || !strcmp(word, "pwrite"))
        return jump(path, first, word[1] == 'w');
    if (!strcmp(word, "map"))
        return map(path, first);
    if (!strcmp(word, "poke"))
        return poke(path);
    return 2;
}

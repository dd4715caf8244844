// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
// System calls that the suites leave out: calls DIRECTORY [TEST...]. DIRECTORY is on the mount; /tmp is
// not. Prints a line for each test; the exit status is 1 if one failed.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define KIB 1024UL
#define MIB (1024 * KIB)
#define PAGE 4096UL

static int failures;
static const char *test;

static void failed(int line, const char *format, ...)
{
	va_list list;

	va_start(list, format);
	printf("FAIL %s:%d: ", test, line);
	vprintf(format, list);
	printf(" (errno %d, %s)\n", errno, strerror(errno));
	va_end(list);
	failures++;
}

// The test goes on: one fault says little about the next line.
#define OK(what)                                     \
	do {                                         \
		errno = 0;                           \
		if (!(what))                         \
			failed(__LINE__, "%s", #what); \
	} while (0)

// A call that must fail, and how.
#define ERR(error, call)                                                     \
	do {                                                                 \
		errno = 0;                                                   \
		if ((long)(call) != -1L || errno != (error))                 \
			failed(__LINE__, "%s: not %s", #call, #error);       \
	} while (0)

// A child, which counts its own failures.
static pid_t branch(void)
{
	pid_t child = fork();

	if (child == 0)
		failures = 0;
	return child;
}

static char *bytes(size_t n, unsigned seed)
{
	char *p = malloc(n);

	for (size_t i = 0; i < n; i++) {
		seed = seed * 1103515245 + 12345;
		p[i] = seed >> 16;
	}
	return p;
}

static int zeros(const char *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

// A file of `n` random bytes, open for reading and writing.
static int filled(const char *name, size_t n, unsigned seed)
{
	int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
	char *p = bytes(n, seed);

	OK(fd >= 0);
	OK(pwrite(fd, p, n, 0) == (ssize_t)n);
	free(p);
	return fd;
}

// Does the file hold what `filled` put there?
static int holds(int fd, off_t at, size_t n, unsigned seed, off_t from)
{
	char *want = bytes(from + n, seed), *have = malloc(n);
	int same = pread(fd, have, n, at) == (ssize_t)n && memcmp(want + from, have, n) == 0;

	free(want);
	free(have);
	return same;
}

static char *map(int fd, size_t n, int flags)
{
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, flags, fd, 0);

	OK(p != MAP_FAILED);
	return p;
}

static sigjmp_buf bus;

static void on_bus(int signal)
{
	(void)signal;
	siglongjmp(bus, 1);
}

// Does reading (or writing) a byte end in SIGBUS?
static int is_bus(volatile char *p, int write)
{
	struct sigaction old, new = { .sa_handler = on_bus };
	int hit = 0;

	sigaction(SIGBUS, &new, &old);
	if (sigsetjmp(bus, 1))
		hit = 1;
	else if (write)
		*p = 1;
	else
		(void)*p;
	sigaction(SIGBUS, &old, NULL);
	return hit;
}

// ---- memory that is a mapping of a file here -----------------------------------------------------

static void direct(void)
{
	int a = filled("a", 4 * MIB, 1);
	int b = open("b", O_RDWR | O_CREAT | O_TRUNC | O_DIRECT, 0644);
	char *p = map(a, 4 * MIB, MAP_SHARED), *q;

	OK(b >= 0);
	OK(write(b, p, 4 * MIB) == (ssize_t)(4 * MIB));
	OK(holds(b, 0, 4 * MIB, 1, 0));
	memset(p, 0, 4 * MIB);
	OK(pread(b, p, 4 * MIB, 0) == (ssize_t)(4 * MIB));
	OK(holds(a, 0, 4 * MIB, 1, 0));
	// Into a hole that a mapping shows.
	OK(ftruncate(a, 0) == 0 && ftruncate(a, 4 * MIB) == 0);
	OK(pread(b, p, 4 * MIB, 0) == (ssize_t)(4 * MIB));
	OK(holds(a, 0, 4 * MIB, 1, 0));
	// Neither offset nor length is aligned: the region is memory.
	q = bytes(5, 9);
	OK(pwrite(b, q, 5, 4095) == 5);
	munmap(p, 4 * MIB);
	free(q);
	close(a);
	close(b);
}

// A disk that takes the pages themselves, not their bytes.
static void direct_disk(void)
{
	int disk = open("/tmp/disk", O_RDWR | O_DIRECT);
	int a = filled("a", 4 * MIB, 1);
	char *p = map(a, 4 * MIB, MAP_SHARED);

	if (disk < 0) {
		printf("skip %s: no disk\n", test);
		return;
	}
	OK(pwrite(disk, p, 4 * MIB, 0) == (ssize_t)(4 * MIB));
	OK(ftruncate(a, 0) == 0 && ftruncate(a, 4 * MIB) == 0);
	OK(pread(disk, p, 4 * MIB, 0) == (ssize_t)(4 * MIB));
	OK(holds(a, 0, 4 * MIB, 1, 0));
	OK(fallocate(a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, MIB) == 0);
	OK(pread(disk, p, 4 * MIB, 0) == (ssize_t)(4 * MIB));
	OK(holds(a, 0, 4 * MIB, 1, 0));
	munmap(p, 4 * MIB);
	close(a);
	close(disk);
}

static void self_mapping(void)
{
	static const size_t sizes[] = { 1, 100, 4095, 4096, 4097, 70000, 2 * MIB, 3 * MIB + 5 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		size_t n = sizes[i], all = 8 * MIB;
		int fd = filled("self", n, 7);
		char *p, *want = bytes(n, 7);

		OK(ftruncate(fd, all) == 0);
		p = map(fd, all, MAP_SHARED);
		// write(2) from it: to pages that exist, to a hole, behind the end.
		OK(pwrite(fd, p, n, 4 * MIB) == (ssize_t)n);
		OK(holds(fd, 4 * MIB, n, 7, 0));
		OK(memcmp(p + 4 * MIB, want, n) == 0);
		OK(pwrite(fd, p, n, all) == (ssize_t)n);
		OK(holds(fd, all, n, 7, 0));
		// From a hole.
		OK(pwrite(fd, p + 7 * MIB, MIB, all + 16) == (ssize_t)MIB);
		OK(ftruncate(fd, all) == 0);
		// To itself, byte for byte.
		OK(pwrite(fd, p, n, 0) == (ssize_t)n);
		OK(holds(fd, 0, n, 7, 0));
		// read(2) into it: where it is read from, and into a hole.
		OK(pread(fd, p, n, 0) == (ssize_t)n);
		OK(holds(fd, 0, n, 7, 0));
		OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * MIB, 4 * MIB) == 0);
		OK(zeros(p + 4 * MIB, 4 * MIB));
		OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4 * MIB, 4 * MIB) == 0);
		OK(pread(fd, p + 4 * MIB, n, 0) == (ssize_t)n);
		OK(memcmp(p + 4 * MIB, want, n) == 0);
		// A private mapping, of pages that were not looked at yet.
		char *q = map(fd, all, MAP_PRIVATE);
		OK(pwrite(fd, q + 4 * MIB, n, MIB / 2) == (ssize_t)n);
		OK(holds(fd, MIB / 2, n, 7, 0));
		OK(pread(fd, q, n, 4 * MIB) == (ssize_t)n);
		OK(memcmp(q, want, n) == 0);
		munmap(q, all);
		munmap(p, all);
		free(want);
		close(fd);
	}
	// Memory that is not there at all.
	int fd = filled("self", 2 * PAGE, 7);
	char *p = map(fd, 4 * PAGE, MAP_SHARED);
	ERR(EFAULT, pwrite(fd, p + 3 * PAGE, 100, 0));
	OK(pwrite(fd, p + PAGE, 2 * PAGE, 0) > 0);
	ERR(EFAULT, pread(fd, p + 3 * PAGE, 100, 0));
	OK(pread(fd, p + PAGE, 2 * PAGE, 0) > 0);
	munmap(p, 4 * PAGE);
	ERR(EFAULT, pwrite(fd, p, 100, 0));
	close(fd);
}

static void pipes(void)
{
	int a = filled("a", MIB, 3), b = open("b", O_RDWR | O_CREAT | O_TRUNC, 0644);
	int pipe_fd[2];
	char *p = map(a, MIB, MAP_SHARED), *q = malloc(64 * KIB);
	struct iovec iov = { p, 32 * KIB };
	off_t at = 0;
	loff_t from = 0, to = 0;
	size_t left;

	OK(pipe(pipe_fd) == 0);
	OK(vmsplice(pipe_fd[1], &iov, 1, 0) == 32 * KIB);
	OK(read(pipe_fd[0], q, 64 * KIB) == 32 * KIB && memcmp(p, q, 32 * KIB) == 0);
	// From the pipe into the very file whose pages are in it.
	OK(vmsplice(pipe_fd[1], &iov, 1, 0) == 32 * KIB);
	to = 512 * KIB;
	OK(splice(pipe_fd[0], NULL, a, &to, 32 * KIB, 0) == 32 * KIB);
	OK(holds(a, 512 * KIB, 32 * KIB, 3, 0));
	OK(pwrite(a, q, 1, 0) == 1);
	to = 0;
	for (left = 512 * KIB; left;) {
		ssize_t n = splice(a, &from, pipe_fd[1], NULL, left > 64 * KIB ? 64 * KIB : left, 0);
		OK(n > 0);
		if (n <= 0)
			break;
		OK(splice(pipe_fd[0], NULL, b, &to, n, 0) == n);
		left -= n;
	}
	OK(holds(b, 0, 512 * KIB, 3, 0));
	OK(lseek(b, 0, SEEK_END) == 512 * KIB);
	OK(sendfile(b, a, &at, 256 * KIB) == 256 * KIB && at == 256 * KIB);
	OK(holds(b, 512 * KIB, 256 * KIB, 3, 0));
	// What a pipe holds is not given to another file meanwhile: truncate waits until it is drained.
	OK(vmsplice(pipe_fd[1], &iov, 1, 0) == 32 * KIB);
	pid_t child = branch();
	if (child == 0)
		_exit(ftruncate(a, 0) != 0);
	usleep(100000);
	OK(read(pipe_fd[0], q, 32 * KIB) == 32 * KIB);
	{
		char *want = bytes(32 * KIB, 3);
		OK(memcmp(q, want, 32 * KIB) == 0);
		free(want);
	}
	int status = -1;
	OK(waitpid(child, &status, 0) == child && status == 0);
	OK(lseek(a, 0, SEEK_END) == 0);
	munmap(p, MIB);
	free(q);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	close(a);
	close(b);
}

static void other_process(void)
{
	int a = filled("a", MIB, 5);
	char *p = map(a, MIB, MAP_SHARED), *q = malloc(MIB), *want = bytes(MIB, 5);
	int go[2];
	pid_t child;

	OK(pipe(go) == 0);
	child = branch();
	if (child == 0) {
		char c;
		close(go[1]);
		_exit(read(go[0], &c, 1) != 0);
	}
	struct iovec local = { q, MIB }, remote = { p, MIB };
	OK(process_vm_readv(child, &local, 1, &remote, 1, 0) == (ssize_t)MIB);
	OK(memcmp(q, want, MIB) == 0);
	memset(q, 'x', MIB);
	OK(process_vm_writev(child, &local, 1, &remote, 1, 0) == (ssize_t)MIB);
	OK(memcmp(p, q, MIB) == 0);
	close(go[0]);
	close(go[1]);
	waitpid(child, NULL, 0);
	// A debugger writes to a mapping that the process itself may only read.
	char *r = mmap(NULL, MIB, PROT_READ, MAP_PRIVATE, a, 0);
	int status = -1;
	long word;
	child = branch();
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(!(memcmp(r, "debugged", 8) == 0 && p[0] == 'x'));
	}
	memcpy(&word, "debugged", 8);
	OK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	OK(ptrace(PTRACE_POKEDATA, child, r, word) == 0);
	OK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
	OK(waitpid(child, &status, 0) == child && status == 0);
	OK(r[0] == 'x');
	munmap(r, MIB);
	munmap(p, MIB);
	free(q);
	free(want);
	close(a);
}

// ---- space -----------------------------------------------------------------------------------

static void copies(void)
{
	int a = filled("a", MIB, 11), b = open("b", O_RDWR | O_CREAT | O_TRUNC, 0644);
	int t = open("/tmp/calls-copy", O_RDWR | O_CREAT | O_TRUNC, 0644);
	off_t from = 100, to = 5;

	OK(copy_file_range(a, &from, b, &to, 500000, 0) == 500000);
	OK(from == 500100 && to == 500005 && holds(b, 5, 500000, 11, 100));
	from = 0;
	to = MIB;
	OK(copy_file_range(a, &from, a, &to, MIB, 0) == (ssize_t)MIB);
	OK(holds(a, MIB, MIB, 11, 0));
	from = 0, to = 10;
	ERR(EINVAL, copy_file_range(a, &from, a, &to, 100, 0));
	from = 2 * MIB;
	OK(copy_file_range(a, &from, b, &to, 100, 0) == 0);
	// Another kind of filesystem: the kernel says so, and cp(1) reads and writes.
	from = to = 0;
	ERR(EXDEV, copy_file_range(a, &from, t, &to, 100, 0));
	ERR(EXDEV, copy_file_range(t, &from, a, &to, 100, 0));
	// What is mapped shows the copy at once.
	char *p = map(b, MIB, MAP_SHARED);
	OK(ftruncate(b, 0) == 0 && ftruncate(b, MIB) == 0 && zeros(p, MIB));
	from = to = 0;
	OK(copy_file_range(a, &from, b, &to, MIB, 0) == (ssize_t)MIB);
	OK(holds(b, 0, MIB, 11, 0) && p[0] == bytes(1, 11)[0]);
	char *want = bytes(MIB, 11);
	OK(memcmp(p, want, MIB) == 0);
	free(want);
	// And what was stored there is copied.
	p[5000] = 1;
	p[5001] = 2;
	from = 5000, to = 0;
	OK(copy_file_range(b, &from, a, &to, 2, 0) == 2);
	char two[2];
	OK(pread(a, two, 2, 0) == 2 && two[0] == 1 && two[1] == 2);
	munmap(p, MIB);
	OK(copy_file_range(a, NULL, open("b", O_WRONLY | O_APPEND), NULL, 10, 0) == -1 && errno == EBADF);
	// Holes stay holes, or become zeros: the bytes are the same.
	OK(ftruncate(a, 0) == 0 && ftruncate(a, 8 * MIB) == 0 && pwrite(a, "x", 1, 4 * MIB) == 1);
	from = to = 0;
	OK(copy_file_range(a, &from, b, &to, 8 * MIB, 0) > 0);
	ERR(EOPNOTSUPP, ioctl(b, FICLONE, a));
	close(a);
	close(b);
	close(t);
}

static void allocation(void)
{
	int fd = filled("f", MIB, 13);
	struct stat st;
	char c;

	static const int refused[] = {
		FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE, FALLOC_FL_UNSHARE_RANGE,
		FALLOC_FL_PUNCH_HOLE, 0x80 /* FALLOC_FL_WRITE_ZEROES */, 0x4000,
	};
	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
		ERR(EOPNOTSUPP, fallocate(fd, refused[i], 0, PAGE));
	ERR(EINVAL, fallocate(fd, 0, 0, 0));
	ERR(EINVAL, fallocate(fd, 0, -1, 10));
	ERR(EFBIG, fallocate(fd, 0, INT64_MAX - 10, 100));
	ERR(ENOSPC, fallocate(fd, 0, 0, 1L << 40));
	OK(fstat(fd, &st) == 0 && st.st_size == (off_t)MIB);
	OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, MIB, MIB) == 0);
	OK(fstat(fd, &st) == 0 && st.st_size == (off_t)MIB && st.st_blocks >= (blkcnt_t)(2 * MIB / 512));
	OK(fallocate(fd, 0, MIB, MIB) == 0);
	OK(fstat(fd, &st) == 0 && st.st_size == (off_t)(2 * MIB));
	OK(pread(fd, &c, 1, 2 * MIB - 1) == 1 && c == 0);
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 3 * PAGE) == 0);
	OK(holds(fd, 0, 100, 13, 0) && holds(fd, 100 + 3 * PAGE, 50000, 13, 100 + 3 * PAGE));
	char *p = malloc(3 * PAGE);
	OK(pread(fd, p, 3 * PAGE, 100) == (ssize_t)(3 * PAGE) && zeros(p, 3 * PAGE));
	OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 100000, 10000) == 0);
	OK(pread(fd, p, 10000, 100000) == 10000 && zeros(p, 10000) && holds(fd, 110000, 5000, 13, 110000));
	OK(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 2 * MIB, MIB) == 0);
	OK(fstat(fd, &st) == 0 && st.st_size == (off_t)(2 * MIB));
	OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 2 * MIB, MIB) == 0);
	OK(fstat(fd, &st) == 0 && st.st_size == (off_t)(3 * MIB));
	int ro = open("f", O_RDONLY);
	ERR(EBADF, fallocate(ro, 0, 0, 10));
	close(ro);
	free(p);
	close(fd);
}

static void holes(void)
{
	int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
	char list[sizeof(struct fiemap) + 16 * sizeof(struct fiemap_extent)];
	struct fiemap *f = (struct fiemap *)list;

	ERR(ENXIO, lseek(fd, 0, SEEK_DATA));
	OK(pwrite(fd, "x", 1, 4 * MIB) == 1 && ftruncate(fd, 16 * MIB) == 0);
	OK(lseek(fd, 0, SEEK_DATA) == (off_t)(4 * MIB));
	OK(lseek(fd, 0, SEEK_HOLE) == 0);
	OK(lseek(fd, 4 * MIB, SEEK_HOLE) == (off_t)(4 * MIB + PAGE));
	ERR(ENXIO, lseek(fd, 5 * MIB, SEEK_DATA));
	ERR(ENXIO, lseek(fd, 16 * MIB, SEEK_HOLE));
	ERR(ENXIO, lseek(fd, -1, SEEK_DATA));
	OK(lseek(fd, 16 * MIB - 1, SEEK_HOLE) == (off_t)(16 * MIB - 1));
	// Through a mapping.
	char *p = map(fd, 16 * MIB, MAP_SHARED);
	p[8 * MIB] = 1;
	OK(lseek(fd, 5 * MIB, SEEK_DATA) == (off_t)(8 * MIB));
	OK(zeros(p + 8 * MIB + 1, 2 * MIB - 1) && zeros(p, 4 * MIB));
	munmap(p, 16 * MIB);

	memset(list, 0, sizeof(list));
	f->fm_length = FIEMAP_MAX_OFFSET;
	OK(ioctl(fd, FS_IOC_FIEMAP, f) == 0);
	unsigned count = f->fm_mapped_extents;
	OK(count >= 2 && count < 16);
	if (count < 2 || count >= 16)
		return;
	f->fm_extent_count = 16;
	f->fm_flags = FIEMAP_FLAG_SYNC;
	OK(ioctl(fd, FS_IOC_FIEMAP, f) == 0 && f->fm_mapped_extents == count);
	OK(f->fm_extents[0].fe_logical == 4 * MIB && f->fm_extents[0].fe_length == PAGE);
	OK(f->fm_extents[count - 1].fe_flags & FIEMAP_EXTENT_LAST);
	OK(!(f->fm_extents[0].fe_flags & FIEMAP_EXTENT_LAST));
	for (unsigned i = 0; i < count; i++)
		OK(f->fm_extents[i].fe_physical % PAGE == 0 && f->fm_extents[i].fe_physical != 0);
	OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 20 * MIB, MIB) == 0);
	OK(ioctl(fd, FS_IOC_FIEMAP, f) == 0 && f->fm_mapped_extents == count + 1);
	OK(f->fm_extents[count].fe_flags == (FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_UNWRITTEN));
	f->fm_start = 5 * MIB;
	f->fm_length = MIB;
	OK(ioctl(fd, FS_IOC_FIEMAP, f) == 0 && f->fm_mapped_extents == 0);
	f->fm_flags = 0x1000;
	ERR(EBADR, ioctl(fd, FS_IOC_FIEMAP, f));
	close(fd);
}

static void limits(void)
{
	int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
	struct rlimit unlimited, small = { 1000, RLIM_INFINITY };

	// Files end where loff_t does.
	OK(pwrite(fd, "x", 1, INT64_MAX - 1) == 1);
	OK(lseek(fd, 0, SEEK_END) == INT64_MAX);
	OK(lseek(fd, 0, SEEK_DATA) == INT64_MAX / (off_t)PAGE * (off_t)PAGE);
	ERR(EINVAL, pwrite(fd, "x", 1, -1));
	OK(ftruncate(fd, INT64_MAX - 1) == 0 && ftruncate(fd, INT64_MAX) == 0 && ftruncate(fd, 0) == 0);
	ERR(EINVAL, ftruncate(fd, -1));
	OK(pwrite(fd, "x", 1, (1L << 47) - 1) == 1);
	OK(lseek(fd, 0, SEEK_END) == 1L << 47);
	OK(ftruncate(fd, 0) == 0);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &unlimited);
	small.rlim_max = unlimited.rlim_max;
	OK(setrlimit(RLIMIT_FSIZE, &small) == 0);
	char *p = bytes(2000, 1);
	OK(pwrite(fd, p, 2000, 0) == 1000);
	ERR(EFBIG, pwrite(fd, p, 1, 1000));
	ERR(EFBIG, ftruncate(fd, 1001));
	ERR(EFBIG, fallocate(fd, 0, 0, 1001));
	OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10000) == 0);
	OK(setrlimit(RLIMIT_FSIZE, &unlimited) == 0);
	free(p);
	close(fd);
	// Full, and then not.
	fd = open("full", O_RDWR | O_CREAT | O_TRUNC, 0644);
	p = malloc(8 * MIB);
	memset(p, 1, 8 * MIB);
	ssize_t n;
	while ((n = write(fd, p, 8 * MIB)) > 0)
		;
	int error = errno;
	OK(n == -1 && error == ENOSPC);
	// A page fault finds no room either, and kills nobody else.
	off_t end = lseek(fd, 0, SEEK_END) / (off_t)PAGE * (off_t)PAGE + (off_t)PAGE;
	OK(ftruncate(fd, end + 64 * MIB) == 0);
	char *q = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, end);
	int hit = 0;
	for (size_t i = 0; i < 64 * MIB && !hit; i += PAGE)
		hit = is_bus(q + i, 1);
	OK(hit);
	munmap(q, 64 * MIB);
	OK(unlink("full") == 0 && close(fd) == 0);
	fd = open("full", O_RDWR | O_CREAT | O_TRUNC, 0644);
	OK(write(fd, p, 8 * MIB) == (ssize_t)(8 * MIB));
	close(fd);
	unlink("full");
	free(p);
}

// ---- mappings --------------------------------------------------------------------------------

static long faults(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return u.ru_minflt + u.ru_majflt;
}

static void show_smaps(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "r");
	char line[512], want[32];
	int on = 0;

	snprintf(want, sizeof(want), "%lx-", (unsigned long)p);
	while (fgets(line, sizeof(line), f)) {
		if (strchr(line, '-') && strstr(line, want) == line)
			on = 1;
		else if (on && strncmp(line, "VmFlags:", 8) == 0)
			break;
		if (on && (strstr(line, "Rss") || strstr(line, "PmdMapped") || strstr(line, "AnonHuge")))
			printf("     %s", line);
	}
	fclose(f);
}

static void huge(void)
{
	size_t n = 16 * MIB;
	int fd = filled("huge", n, 17);
	char *want = bytes(n, 17), *p, *q;
	volatile long sum = 0;
	long before;

	// Written: 8 places of 2 MiB. A fault each, not one for each page.
	p = map(fd, n, MAP_SHARED);
	OK((uintptr_t)p % (2 * MIB) == 0);
	before = faults();
	for (size_t i = 0; i < n; i += PAGE)
		sum += p[i];
	long reads = faults() - before;
	before = faults();
	for (size_t i = 0; i < n; i += PAGE)
		p[i] ^= 1;
	long writes = faults() - before;
	OK(reads <= 16);
	OK(writes <= 16);
	printf("     16 MiB shared: %ld faults to read, %ld to write\n", reads, writes);
	show_smaps(p);
	for (size_t i = 0; i < n; i += PAGE)
		p[i] ^= 1;
	OK(holds(fd, 0, n, 17, 0));
	// Private: read by 2 MiB, copied by the page, and the file stays as it is.
	q = map(fd, n, MAP_PRIVATE);
	before = faults();
	for (size_t i = 0; i < n; i += PAGE)
		sum += q[i];
	reads = faults() - before;
	OK(reads <= 16);
	printf("     16 MiB private: %ld faults to read\n", reads);
	memset(q + 3 * MIB + 123, 'q', 10000);
	OK(memcmp(p, want, n) == 0 && memcmp(q, want, 3 * MIB + 123) == 0);
	OK(q[3 * MIB + 10000] == 'q' && memcmp(q + 4 * MIB, want + 4 * MIB, n - 4 * MIB) == 0);
	// Of a child too.
	pid_t child = branch();
	if (child == 0) {
		memset(p, 's', PAGE);
		memset(q, 't', PAGE);
		_exit(!(p[1] == 's' && q[1] == 't'));
	}
	int status = -1;
	OK(waitpid(child, &status, 0) == child && status == 0);
	OK(p[1] == 's' && p[PAGE - 1] == 's' && q[1] != 't');
	munmap(q, n);
	// Into a hole: allocated by 2 MiB, all zeros.
	OK(ftruncate(fd, 0) == 0 && ftruncate(fd, n) == 0);
	before = faults();
	for (size_t i = 0; i < n; i += PAGE)
		sum += p[i];
	printf("     16 MiB hole: %ld faults to read", faults() - before);
	before = faults();
	for (size_t i = 0; i < n; i += PAGE)
		p[i] = 'h';
	printf(", %ld to write\n", faults() - before);
	OK(faults() - before <= 16);
	for (size_t i = 0; i < n; i += PAGE)
		if (p[i] != 'h' || !zeros(p + i + 1, PAGE - 1)) {
			failed(__LINE__, "page %zu of what was a hole", i / PAGE);
			break;
		}
	// Split: a page punched out of 2 MiB, protected, moved.
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * MIB + PAGE, PAGE) == 0);
	OK(p[2 * MIB] == 'h' && p[2 * MIB + PAGE] == 0 && p[2 * MIB + 2 * PAGE] == 'h');
	OK(mprotect(p + 4 * MIB, PAGE, PROT_READ) == 0 && p[4 * MIB] == 'h');
	p[4 * MIB + PAGE] = 'i';
	OK(madvise(p, n, MADV_DONTNEED) == 0 && p[6 * MIB] == 'h');
	OK(munmap(p + 8 * MIB, PAGE) == 0 && p[8 * MIB + PAGE] == 'h');
	OK(madvise(p + 10 * MIB, 2 * MIB, MADV_REMOVE) == 0 && zeros(p + 10 * MIB, 2 * MIB));
	OK(madvise(p + 10 * MIB, 2 * MIB, MADV_POPULATE_WRITE) == 0);
	OK(msync(p, 2 * MIB, MS_SYNC) == 0 && msync(p, 2 * MIB, MS_INVALIDATE) == 0);
	OK(mlock(p, 2 * MIB) == 0 && munlock(p, 2 * MIB) == 0);
	munmap(p, 8 * MIB);
	munmap(p + 8 * MIB + PAGE, 8 * MIB - PAGE);
	free(want);
	close(fd);
}

// 2 MiB that are mapped whole here and by the page there, where the place in memory is another.
static void askew(void)
{
	size_t n = 4 * MIB;
	int fd = filled("huge", n, 17), status = -1;
	char *want = bytes(n, 17), *p = map(fd, n, MAP_SHARED);
	char *room = mmap(NULL, n + 4 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *q = (char *)(((uintptr_t)room + 2 * MIB) & ~(2 * MIB - 1)) + PAGE;

	OK(mmap(q, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == q);
	OK(memcmp(p, want, n) == 0 && memcmp(q, want, n) == 0);
	for (int round = 0; round < 3; round++) {
		pid_t child = branch();
		if (child == 0) {
			alarm(10);
			if (round == 0)
				_exit(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB, PAGE) != 0);
			if (round == 1)
				_exit(ftruncate(fd, 3 * MIB + 5 * PAGE) != 0);
			_exit(fallocate(fd, FALLOC_FL_ZERO_RANGE, 100, MIB / 2) != 0);
		}
		OK(waitpid(child, &status, 0) == child && status == 0);
		memset(q + 2 * MIB - PAGE, 'q', PAGE);
		OK(p[2 * MIB - 1] == 'q' && q[2 * MIB] == want[2 * MIB] && p[2 * MIB] == want[2 * MIB]);
	}
	OK(zeros(p + MIB, PAGE) && zeros(q + MIB, PAGE) && p[MIB + PAGE] == want[MIB + PAGE]);
	OK(is_bus(q + 3 * MIB + 5 * PAGE, 0) && p[3 * MIB] == want[3 * MIB]);
	munmap(p, n);
	munmap(room, n + 4 * MIB);
	free(want);
	close(fd);
}

static void ends(void)
{
	int fd = filled("f", 8 * MIB, 19);
	char *p = map(fd, 8 * MIB, MAP_SHARED), *q = map(fd, 8 * MIB, MAP_PRIVATE);

	OK(p[7 * MIB] == q[7 * MIB]);
	p[MIB] = p[MIB];
	// Behind the end is no memory; the rest of the last page is zeros, also when it grows again.
	OK(ftruncate(fd, MIB + 100) == 0);
	OK(!is_bus(p + MIB + PAGE - 1, 0) && is_bus(p + MIB + PAGE, 0) && is_bus(p + 7 * MIB, 1));
	OK(is_bus(q + 7 * MIB, 0));
	OK(zeros(p + MIB + 100, PAGE - 100));
	memset(p + MIB + 100, 'x', 100);
	OK(ftruncate(fd, 8 * MIB) == 0);
	OK(zeros(p + MIB + 100, 7 * MIB - 100));
	char c;
	OK(pread(fd, &c, 1, MIB + 150) == 1 && c == 0);
	OK(pwrite(fd, "y", 1, 7 * MIB) == 1 && p[7 * MIB] == 'y');
	// The same by writing behind an end that a mapping was written behind.
	OK(ftruncate(fd, 100) == 0);
	memset(p + 100, 'x', 1000);
	OK(pwrite(fd, "z", 1, 5000) == 1);
	OK(zeros(p + 100, 4900) && p[5000] == 'z');
	OK(ftruncate(fd, 100) == 0);
	memset(p + 100, 'x', 1000);
	OK(fallocate(fd, 0, 0, 2 * PAGE) == 0 && zeros(p + 100, 2 * PAGE - 100));
	OK(ftruncate(fd, 0) == 0 && is_bus(p, 0) && is_bus(p, 1));
	OK(ftruncate(fd, MIB) == 0);
	// A punched page reads as zeros, and is memory again when it is stored to.
	memset(p, 'p', MIB);
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, 4 * PAGE) == 0);
	OK(p[PAGE - 1] == 'p' && zeros(p + PAGE, 4 * PAGE) && p[5 * PAGE] == 'p');
	p[2 * PAGE] = 'n';
	OK(pread(fd, &c, 1, 2 * PAGE) == 1 && c == 'n');
	OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 10, MIB - 20) == 0);
	OK(p[9] == 'p' && zeros(p + 10, MIB - 20) && p[MIB - 10] == 'p');
	// write(2) into a hole that a mapping shows as zeros.
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB) == 0 && zeros(p, MIB));
	OK(pwrite(fd, "w", 1, 3 * PAGE) == 1 && p[3 * PAGE] == 'w' && p[3 * PAGE + 1] == 0);
	// The same in one write(2) with a page that is mapped already.
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB) == 0);
	OK(pwrite(fd, "1", 1, 0) == 1 && p[0] == '1' && zeros(p + PAGE, 7 * PAGE));
	char *eight = malloc(8 * PAGE);
	memset(eight, 'e', 8 * PAGE);
	OK(pwrite(fd, eight, 8 * PAGE, 0) == (ssize_t)(8 * PAGE));
	OK(memcmp(p, eight, 8 * PAGE) == 0 && p[8 * PAGE] == 0);
	free(eight);
	OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, MIB) == 0 && zeros(p, MIB));
	OK(pwrite(fd, "w", 1, 3 * PAGE) == 1);
	// A mapping outlives name and descriptor.
	OK(unlink("f") == 0 && close(fd) == 0);
	p[3 * PAGE] = 'v';
	OK(p[3 * PAGE] == 'v');
	munmap(p, 8 * MIB);
	munmap(q, 8 * MIB);
}

// MAP_SYNC: what was stored is in the region when the store returns, here always.
static void map_sync(void)
{
	int fd = filled("f", 4 * MIB, 19);
	char *p = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);

	OK(p != MAP_FAILED);
	if (p == MAP_FAILED)
		return;
	memset(p, 's', 4 * MIB);
	OK(ftruncate(fd, 0) == 0 && ftruncate(fd, 4 * MIB) == 0);
	p[MIB] = 's';
	OK(p[MIB] == 's' && zeros(p, MIB));
	munmap(p, 4 * MIB);
	close(fd);
}

// ---- threads ---------------------------------------------------------------------------------

static volatile int stop;
static char *shared;

static void *store(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!stop) {
		size_t at = rand_r(&seed) % (8 * MIB);
		if (seed & 1)
			shared[at] = 1;
		else
			(void)*(volatile char *)&shared[at];
	}
	return NULL;
}

static void *change(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;
	int fd = open("race", O_RDWR);
	char *p = malloc(MIB);

	memset(p, 2, MIB);
	while (!stop) {
		off_t at = rand_r(&seed) % (8 * MIB);
		size_t len = rand_r(&seed) % MIB + 1;
		switch (rand_r(&seed) % 6) {
		case 0:
			fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, len);
			break;
		case 1:
			pwrite(fd, p, len > 8 * MIB - at ? 8 * MIB - at : len, at);
			break;
		case 2:
			pread(fd, p, len, at);
			break;
		case 3:
			pwrite(fd, shared + at % (4 * MIB), len, at % (4 * MIB));
			break;
		case 4:
			pread(fd, shared + at % (4 * MIB), len, at % (4 * MIB));
			break;
		default:
			if (seed % 8 == 0 && ftruncate(fd, at) == 0)
				ftruncate(fd, 8 * MIB);
			fallocate(fd, 0, at, len > 8 * MIB - at ? 8 * MIB - at : len);
		}
	}
	free(p);
	close(fd);
	return NULL;
}

static void ignore_bus(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	// Truncated a moment ago: somebody makes it long again.
	usleep(100);
}

static void race(void)
{
	struct sigaction new = { .sa_sigaction = ignore_bus, .sa_flags = SA_SIGINFO };
	pthread_t threads[6];
	int fd = open("race", O_RDWR | O_CREAT | O_TRUNC, 0644);

	sigaction(SIGBUS, &new, NULL);
	OK(ftruncate(fd, 8 * MIB) == 0);
	shared = map(fd, 8 * MIB, MAP_SHARED);
	stop = 0;
	for (int i = 0; i < 6; i++)
		pthread_create(&threads[i], NULL, i % 2 ? store : change, (void *)(uintptr_t)(i + 1));
	sleep(6);
	stop = 1;
	OK(ftruncate(fd, 8 * MIB) == 0);
	for (int i = 0; i < 6; i++)
		pthread_join(threads[i], NULL);
	munmap(shared, 8 * MIB);
	signal(SIGBUS, SIG_DFL);
	close(fd);
}

static void *append(void *arg)
{
	int fd = open("log", O_WRONLY | O_APPEND);
	char line[16];

	for (int i = 0; i < 500; i++) {
		snprintf(line, sizeof(line), "%7ld %6d\n", (long)(intptr_t)arg, i);
		OK(write(fd, line, 15) == 15);
	}
	close(fd);
	return NULL;
}

static void appends(void)
{
	pthread_t threads[4];
	int fd = open("log", O_RDWR | O_CREAT | O_TRUNC, 0644);
	int next[4] = { 0 };
	char line[16] = "";

	for (long i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, append, (void *)i);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	OK(lseek(fd, 0, SEEK_END) == 4 * 500 * 15);
	for (int i = 0; i < 2000; i++) {
		long who;
		int n;
		OK(pread(fd, line, 15, i * 15) == 15 && sscanf(line, "%ld %d", &who, &n) == 2);
		OK(n == next[who]++);
	}
	struct iovec iov = { "abc", 3 };
	OK(pwritev2(fd, &iov, 1, 0, RWF_APPEND) == 3 && lseek(fd, 0, SEEK_END) == 30003);
	OK(pwritev2(fd, &iov, 1, 0, RWF_DSYNC) == 3);
	iov.iov_base = line;
	errno = 0;
	OK(preadv2(fd, &iov, 1, 0, RWF_NOWAIT) == 3 || errno == EOPNOTSUPP);
	close(fd);
}

// ---- names -----------------------------------------------------------------------------------

static void nameless(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0640);
	char path[64];
	struct stat st;

	OK(fd >= 0 && write(fd, "hello", 5) == 5);
	OK(fstat(fd, &st) == 0 && st.st_nlink == 0 && (st.st_mode & 0777) == 0640);
	unlink("born");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	OK(linkat(AT_FDCWD, path, AT_FDCWD, "born", AT_SYMLINK_FOLLOW) == 0);
	OK(fstat(fd, &st) == 0 && st.st_nlink == 1);
	unlink("born2");
	OK(linkat(fd, "", AT_FDCWD, "born2", AT_EMPTY_PATH) == 0);
	OK(fstat(fd, &st) == 0 && st.st_nlink == 2);
	OK(stat("born", &st) == 0 && st.st_size == 5);
	// Once it had a name and lost it, it gets no other.
	OK(unlink("born") == 0 && unlink("born2") == 0);
	ERR(ENOENT, linkat(fd, "", AT_FDCWD, "born", AT_EMPTY_PATH));
	close(fd);
	fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0640);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ERR(ENOENT, linkat(AT_FDCWD, path, AT_FDCWD, "born", AT_SYMLINK_FOLLOW));
	close(fd);
	ERR(EINVAL, open(".", O_TMPFILE | O_RDONLY, 0640));
}

static int text(const char *name, const char *what)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	int good = write(fd, what, strlen(what)) == (ssize_t)strlen(what);

	return close(fd) == 0 && good;
}

static int is_text(const char *name, const char *what)
{
	char have[64] = "";
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, have, sizeof(have));

	close(fd);
	return n == (ssize_t)strlen(what) && memcmp(have, what, n) == 0;
}

static void renames(void)
{
	struct stat st, parent;

	OK(mkdir("d1", 0755) == 0 && mkdir("d2", 0755) == 0);
	OK(text("d1/a", "a") && text("d2/b", "b") && mkdir("d2/sub", 0755) == 0);
	ERR(EEXIST, renameat2(AT_FDCWD, "d1/a", AT_FDCWD, "d2/b", RENAME_NOREPLACE));
	OK(renameat2(AT_FDCWD, "d1/a", AT_FDCWD, "d2/b", RENAME_EXCHANGE) == 0);
	OK(is_text("d1/a", "b") && is_text("d2/b", "a"));
	// A file for a directory: ".." and the links of both parents go along.
	OK(renameat2(AT_FDCWD, "d1/a", AT_FDCWD, "d2/sub", RENAME_EXCHANGE) == 0);
	OK(stat("d1", &parent) == 0 && parent.st_nlink == 3);
	OK(stat("d2", &st) == 0 && st.st_nlink == 2);
	OK(stat("d1/a/..", &st) == 0 && st.st_ino == parent.st_ino);
	ERR(ENOENT, renameat2(AT_FDCWD, "d1/none", AT_FDCWD, "d2/b", RENAME_EXCHANGE));
	ERR(ENOENT, renameat2(AT_FDCWD, "d2/b", AT_FDCWD, "d2/none", RENAME_EXCHANGE));
	ERR(EINVAL, renameat2(AT_FDCWD, "d2/b", AT_FDCWD, "d2/c", RENAME_EXCHANGE | RENAME_NOREPLACE));
	ERR(EINVAL, renameat2(AT_FDCWD, "d1", AT_FDCWD, "d1/a/x", 0));
	ERR(EINVAL, renameat2(AT_FDCWD, "d1/a", AT_FDCWD, "d1", RENAME_EXCHANGE));
	OK(renameat2(AT_FDCWD, "d2/b", AT_FDCWD, "d2/c", RENAME_WHITEOUT) == 0);
	OK(lstat("d2/b", &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0);
	OK(is_text("d2/c", "a"));
	OK(renameat2(AT_FDCWD, "d2/c", AT_FDCWD, "d1/e", RENAME_NOREPLACE | RENAME_WHITEOUT) == 0);
	OK(is_text("d1/e", "a") && lstat("d2/c", &st) == 0 && S_ISCHR(st.st_mode));
	// Over an open file, over an empty directory, not over a full one.
	OK(text("x", "x") && text("y", "y"));
	int fd = open("y", O_RDONLY);
	OK(rename("x", "y") == 0 && is_text("y", "x"));
	char c;
	OK(read(fd, &c, 1) == 1 && c == 'y' && fstat(fd, &st) == 0 && st.st_nlink == 0);
	close(fd);
	OK(mkdir("e1", 0755) == 0 && mkdir("e2", 0755) == 0 && rename("e1", "e2") == 0);
	ERR(ENOTEMPTY, rename("e2", "d1"));
	ERR(EISDIR, rename("y", "e2"));
	ERR(ENOTDIR, rename("e2", "y"));
	OK(link("y", "z") == 0 && rename("y", "z") == 0 && access("y", F_OK) == 0);
	char name[300];
	memset(name, 'n', sizeof(name));
	name[255] = 0;
	OK(text(name, "n") && is_text(name, "n") && unlink(name) == 0);
	name[255] = 'n', name[256] = 0;
	ERR(ENAMETOOLONG, open(name, O_RDONLY));
	ERR(ENAMETOOLONG, mkdir(name, 0755));
}

static void directories(void)
{
	char name[32];
	static char seen[3000];
	struct dirent *e;
	int n = 0;

	OK(mkdir("many", 0755) == 0);
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "many/%d", i);
		close(open(name, O_CREAT | O_WRONLY, 0644));
	}
	// Files that go away while the directory is read do not hide others.
	DIR *dir = opendir("many");
	memset(seen, 0, sizeof(seen));
	while ((e = readdir(dir))) {
		if (e->d_name[0] == '.') {
			OK(e->d_type == DT_DIR);
			continue;
		}
		OK(e->d_type == DT_REG);
		int i = atoi(e->d_name);
		OK(i >= 0 && i < 3000 && !seen[i]);
		seen[i] = 1;
		n++;
		OK(unlinkat(dirfd(dir), e->d_name, 0) == 0);
	}
	OK(n == 3000);
	closedir(dir);
	OK(rmdir("many") == 0);
	// Places that were noted lead back.
	OK(mkdir("many", 0755) == 0);
	for (int i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "many/%d", i);
		close(open(name, O_CREAT | O_WRONLY, 0644));
	}
	dir = opendir("many");
	static long where[502];
	static char names[502][32];
	for (n = 0; n < 502; n++) {
		where[n] = telldir(dir);
		e = readdir(dir);
		OK(e != NULL);
		if (!e)
			break;
		strcpy(names[n], e->d_name);
	}
	OK(readdir(dir) == NULL);
	for (int i = 501; i >= 0; i -= 7) {
		seekdir(dir, where[i]);
		e = readdir(dir);
		OK(e && strcmp(e->d_name, names[i]) == 0);
	}
	rewinddir(dir);
	e = readdir(dir);
	OK(e && strcmp(e->d_name, ".") == 0);
	closedir(dir);
	ERR(EISDIR, read(open("many", O_RDONLY), name, 1));
	// A directory that is gone, but somebody's.
	OK(mkdir("gone", 0755) == 0);
	int fd = open("gone", O_RDONLY | O_DIRECTORY);
	OK(rmdir("gone") == 0);
	ERR(ENOENT, openat(fd, "x", O_CREAT | O_WRONLY, 0644));
	ERR(ENOENT, mkdirat(fd, "x", 0755));
	ERR(ENOENT, symlinkat("a", fd, "x"));
	ERR(ENOENT, openat(fd, ".", O_TMPFILE | O_RDWR, 0644));
	close(fd);
}

// ---- attributes --------------------------------------------------------------------------------

static void xattrs(void)
{
	static const char *const spaces[] = { "user.a", "trusted.a", "security.a" };
	char *big = bytes(65536, 23), *have = malloc(65537), list[1024];
	int fd;

	OK(text("x", "x"));
	for (int i = 0; i < 3; i++) {
		const char *n = spaces[i];
		ERR(ENODATA, getxattr("x", n, have, 10));
		ERR(ENODATA, setxattr("x", n, "v", 1, XATTR_REPLACE));
		OK(setxattr("x", n, "value", 5, XATTR_CREATE) == 0);
		ERR(EEXIST, setxattr("x", n, "value", 5, XATTR_CREATE));
		OK(getxattr("x", n, NULL, 0) == 5);
		ERR(ERANGE, getxattr("x", n, have, 4));
		OK(getxattr("x", n, have, 100) == 5 && memcmp(have, "value", 5) == 0);
		OK(setxattr("x", n, "", 0, 0) == 0 && getxattr("x", n, have, 100) == 0);
		OK(setxattr("x", n, big, 65536, 0) == 0);
		OK(getxattr("x", n, have, 65536) == 65536 && memcmp(have, big, 65536) == 0);
		ERR(E2BIG, setxattr("x", n, big, 65537, 0));
	}
	ERR(EOPNOTSUPP, setxattr("x", "other.a", "v", 1, 0));
	ERR(EOPNOTSUPP, setxattr("x", "plain", "v", 1, 0));
	OK(listxattr("x", list, sizeof(list)) == 7 + 10 + 11);
	ERR(ERANGE, listxattr("x", list, 5));
	OK(symlink("x", "l") == 0);
	ERR(EPERM, lsetxattr("l", "user.a", "v", 1, 0));
	OK(lsetxattr("l", "trusted.a", "v", 1, 0) == 0);
	// Others do not see what is the administrator's.
	OK(chmod(".", 0777) == 0 && chmod("x", 0666) == 0);
	pid_t child = branch();
	if (child == 0) {
		OK(setuid(1001) == 0);
		OK(listxattr("x", list, sizeof(list)) == 7 + 11);
		ERR(ENODATA, getxattr("x", "trusted.a", have, 100));
		ERR(EPERM, setxattr("x", "trusted.a", "v", 1, 0));
		ERR(EPERM, setxattr("x", "security.b", "v", 1, 0));
		OK(setxattr("x", "user.b", "v", 1, 0) == 0);
		_exit(failures);
	}
	int status = -1;
	OK(waitpid(child, &status, 0) == child && status == 0);
	for (int i = 0; i < 3; i++) {
		OK(removexattr("x", spaces[i]) == 0);
		ERR(ENODATA, removexattr("x", spaces[i]));
	}
	// A capability goes when the file is written to; so does set-user-ID.
	static const unsigned char cap[20] = { 1, 0, 0, 2, 0, 4 };
	OK(setxattr("x", "security.capability", cap, sizeof(cap), 0) == 0);
	fd = open("x", O_RDWR);
	OK(write(fd, "y", 1) == 1);
	ERR(ENODATA, getxattr("x", "security.capability", have, 100));
	OK(setxattr("x", "security.capability", cap, sizeof(cap), 0) == 0);
	OK(ftruncate(fd, 0) == 0);
	ERR(ENODATA, getxattr("x", "security.capability", have, 100));
	OK(setxattr("x", "security.capability", cap, sizeof(cap), 0) == 0);
	OK(chown("x", 1001, 1001) == 0);
	ERR(ENODATA, getxattr("x", "security.capability", have, 100));
	close(fd);
	OK(chmod("x", 06777) == 0);
	child = branch();
	if (child == 0) {
		struct stat st;
		OK(setuid(1002) == 0);
		fd = open("x", O_RDWR);
		OK(write(fd, "y", 1) == 1 && fstat(fd, &st) == 0 && (st.st_mode & 07000) == 0);
		_exit(failures);
	}
	OK(waitpid(child, &status, 0) == child && status == 0);
	free(big);
	free(have);
}

static void groups(void)
{
	struct stat st;

	// A directory with set-group-ID gives its group on, and the bit to directories.
	OK(mkdir("g", 0777) == 0 && chown("g", 0, 1002) == 0 && chmod("g", 02777) == 0);
	umask(0);
	OK(mkdir("g/d", 0755) == 0 && stat("g/d", &st) == 0 && st.st_gid == 1002 && (st.st_mode & 07777) == 02755);
	OK(text("g/f", "f") && stat("g/f", &st) == 0 && st.st_gid == 1002 && (st.st_mode & 07777) == 0644);
	OK(mknod("g/p", S_IFIFO | 0644, 0) == 0 && stat("g/p", &st) == 0 && st.st_gid == 1002);
	OK(symlink("f", "g/l") == 0 && lstat("g/l", &st) == 0 && st.st_gid == 1002);
	int fd = open("g", O_TMPFILE | O_RDWR, 0644);
	OK(fstat(fd, &st) == 0 && st.st_gid == 1002);
	close(fd);
	pid_t child = branch();
	if (child == 0) {
		OK(setgid(1001) == 0 && setuid(1001) == 0);
		fd = open("g/s", O_CREAT | O_WRONLY, 02775);
		OK(fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == 1001 && st.st_gid == 1002 && !(st.st_mode & 02000));
		_exit(failures);
	}
	int status = -1;
	OK(waitpid(child, &status, 0) == child && status == 0);
	umask(022);
}

static void handles(void)
{
	struct { struct file_handle h; char room[128]; } f = { .h.handle_bytes = 128 }, small = { .h.handle_bytes = 1 };
	int id, mount, fd;
	char c;

	OK(text("handle", "h"));
	mount = open(".", O_RDONLY | O_DIRECTORY);
	ERR(EOVERFLOW, name_to_handle_at(AT_FDCWD, "handle", &small.h, &id, 0));
	OK(name_to_handle_at(AT_FDCWD, "handle", &f.h, &id, 0) == 0);
	fd = open_by_handle_at(mount, &f.h, O_RDONLY);
	OK(fd >= 0 && read(fd, &c, 1) == 1 && c == 'h');
	close(fd);
	OK(mkdir("hd", 0755) == 0 && mkdir("hd/in", 0755) == 0);
	f.h.handle_bytes = 128;
	OK(name_to_handle_at(AT_FDCWD, "hd/in", &f.h, &id, 0) == 0);
	OK(rename("hd/in", "hd/out") == 0);
	fd = open_by_handle_at(mount, &f.h, O_RDONLY | O_DIRECTORY);
	OK(fd >= 0);
	char path[64], where[256] = "";
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	OK(readlink(path, where, sizeof(where) - 1) > 0 && strstr(where, "/hd/out"));
	close(fd);
	// Gone: the number may be another file's by now.
	f.h.handle_bytes = 128;
	OK(name_to_handle_at(AT_FDCWD, "handle", &f.h, &id, 0) == 0);
	OK(unlink("handle") == 0);
	sync();
	ERR(ESTALE, open_by_handle_at(mount, &f.h, O_RDONLY));
	OK(text("handle", "h"));
	ERR(ESTALE, open_by_handle_at(mount, &f.h, O_RDONLY));
	memset(f.h.f_handle, 0xff, f.h.handle_bytes);
	ERR(ESTALE, open_by_handle_at(mount, &f.h, O_RDONLY));
	memset(f.h.f_handle, 0, f.h.handle_bytes);
	ERR(ESTALE, open_by_handle_at(mount, &f.h, O_RDONLY));
	f.h.handle_type = 77;
	ERR(ESTALE, open_by_handle_at(mount, &f.h, O_RDONLY));
	close(mount);
	// For who comes after the next mount.
	OK(text("kept", "kept"));
	f.h.handle_bytes = 128;
	OK(name_to_handle_at(AT_FDCWD, "kept", &f.h, &id, 0) == 0);
	fd = open("/tmp/handle", O_CREAT | O_TRUNC | O_WRONLY, 0600);
	OK(write(fd, &f, sizeof(f)) == sizeof(f));
	close(fd);
}

static void handle_again(void)
{
	struct { struct file_handle h; char room[128]; } f;
	int fd = open("/tmp/handle", O_RDONLY), mount = open(".", O_RDONLY | O_DIRECTORY);
	char have[8] = "";

	OK(read(fd, &f, sizeof(f)) == sizeof(f));
	close(fd);
	fd = open_by_handle_at(mount, &f.h, O_RDONLY);
	OK(fd >= 0 && read(fd, have, 8) == 4 && strcmp(have, "kept") == 0);
	close(fd);
	close(mount);
}

// Times follow stores through a mapping, after each msync anew.
static void stamps(void)
{
	int fd = filled("f", 2 * PAGE, 1);
	char *p = map(fd, 2 * PAGE, MAP_SHARED);
	struct stat before, after;

	for (int round = 0; round < 3; round++) {
		OK(fstat(fd, &before) == 0);
		usleep(50000);
		p[PAGE] = (char)round;
		OK(msync(p, 2 * PAGE, MS_SYNC) == 0);
		OK(fstat(fd, &after) == 0);
		OK(memcmp(&before.st_mtim, &after.st_mtim, sizeof(after.st_mtim)) != 0);
	}
	// What was asked for is done before anything is changed by it.
	OK(fchmod(fd, 04755) == 0 && ioctl(fd, _IO('R', 0x70)) == 0);
	OK(fstat(fd, &before) == 0);
	usleep(50000);
	ERR(EPERM, ftruncate(fd, 2 * PAGE));
	ERR(EPERM, ftruncate(fd, 0));
	OK(fstat(fd, &after) == 0 && after.st_size == 2 * PAGE && after.st_mode == before.st_mode);
	OK(memcmp(&before.st_mtim, &after.st_mtim, sizeof(after.st_mtim)) == 0);
	OK(ioctl(fd, _IO('R', 0x71)) == 0);
	munmap(p, 2 * PAGE);
	close(fd);
}

static void *store_frozen(void *arg)
{
	int *marks = arg;

	shared[2 * PAGE] = 2;
	write(marks[1], "x", 1);
	return NULL;
}

static void frozen(void)
{
	int dir = open(".", O_RDONLY | O_DIRECTORY), status = -1;
	int fd = filled("f", MIB, 1), gone = filled("gone-too", MIB, 1);
	char *p = map(fd, MIB, MAP_SHARED), c;
	int marks[2];

	pthread_t thread;

	OK(unlink("gone-too") == 0);
	OK(pipe(marks) == 0);
	// This page needs no fault any more, until the filesystem is frozen.
	shared = p;
	p[2 * PAGE] = 1;
	OK(ioctl(dir, FIFREEZE, 0) == 0);
	ERR(EBUSY, ioctl(dir, FIFREEZE, 0));
	OK(pread(fd, &c, 1, 0) == 1 && p[PAGE] == p[PAGE]);
	pid_t children[4];
	for (int i = 0; i < 4; i++) {
		children[i] = branch();
		if (children[i] == 0) {
			if (i == 0)
				pwrite(fd, "x", 1, 0);
			else if (i == 1)
				mkdir("frozen", 0755);
			else if (i == 2)
				p[0] = 1;
			else
				setxattr("f", "user.x", "x", 1, 0);
			write(marks[1], "x", 1);
			_exit(0);
		}
	}
	// Behind the last fork: in its fault it keeps the address space from being copied.
	OK(pthread_create(&thread, NULL, store_frozen, marks) == 0);
	usleep(300000);
	int n = 0;
	ioctl(marks[0], FIONREAD, &n);
	OK(n == 0);
	OK(ioctl(dir, FITHAW, 0) == 0);
	OK(pthread_join(thread, NULL) == 0 && p[2 * PAGE] == 2);
	for (int i = 0; i < 4; i++)
		OK(waitpid(children[i], &status, 0) == children[i] && status == 0);
	OK(access("frozen", F_OK) == 0 && getxattr("f", "user.x", NULL, 0) == 1);
	ERR(EINVAL, ioctl(dir, FITHAW, 0));
	close(gone);
	munmap(p, MIB);
	close(fd);
	close(dir);
}

// A user namespace where 0 is 1000 here and 500 is 0 here, kept by nothing but the descriptor.
static int user_namespace(void)
{
	int ready[2], go[2], ns = -1;
	char c = 0, path[64];

	if (pipe(ready) != 0 || pipe(go) != 0)
		return -1;
	pid_t child = fork();
	if (child == 0) {
		close(go[1]);
		if (unshare(CLONE_NEWUSER) == 0 && write(ready[1], &c, 1) == 1)
			(void)!read(go[0], &c, 1);
		_exit(0);
	}
	close(ready[1]);
	close(go[0]);
	if (read(ready[0], &c, 1) == 1) {
		snprintf(path, sizeof(path), "/proc/%d/uid_map", child);
		int fd = open(path, O_WRONLY);
		OK(write(fd, "0 1000 1\n500 0 1\n", 17) == 17);
		close(fd);
		snprintf(path, sizeof(path), "/proc/%d/gid_map", child);
		fd = open(path, O_WRONLY);
		OK(write(fd, "0 1000 1\n500 0 1\n", 17) == 17);
		close(fd);
		snprintf(path, sizeof(path), "/proc/%d/ns/user", child);
		ns = open(path, O_RDONLY | O_CLOEXEC);
	}
	close(ready[0]);
	close(go[1]);
	waitpid(child, NULL, 0);
	return ns;
}

// A mount that shows other owners than are stored.
static void mapped(void)
{
	struct { uint64_t set, clear, propagation, userns; } attr = { .set = 0x00100000 /* IDMAP */ };
	struct stat st;
	int tree, ns = user_namespace();

	OK(ns >= 0);
	OK(mkdir("m", 0777) == 0 && chmod("m", 0777) == 0 && text("m/old", "old"));
	OK(mkdir("/tmp/mapped", 0755) == 0 || errno == EEXIST);
	tree = syscall(SYS_open_tree, AT_FDCWD, "m", 1 /* OPEN_TREE_CLONE */ | O_CLOEXEC);
	attr.userns = ns;
	OK(tree >= 0 && syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) == 0);
	OK(syscall(SYS_move_mount, tree, "", AT_FDCWD, "/tmp/mapped", 4 /* F_EMPTY_PATH */) == 0);
	close(tree);
	close(ns);
	// What is stored as 0 is 1000's, and what 0 makes is stored as 500.
	OK(stat("/tmp/mapped/old", &st) == 0 && st.st_uid == 1000 && st.st_gid == 1000);
	OK(text("/tmp/mapped/new", "new") && stat("/tmp/mapped/new", &st) == 0 && st.st_uid == 0);
	OK(stat("m/new", &st) == 0 && st.st_uid == 500 && st.st_gid == 500);
	OK(mkdir("/tmp/mapped/d", 0755) == 0 && stat("m/d", &st) == 0 && st.st_uid == 500);
	OK(symlink("x", "/tmp/mapped/l") == 0 && lstat("m/l", &st) == 0 && st.st_uid == 500);
	OK(mknod("/tmp/mapped/p", S_IFIFO | 0600, 0) == 0 && stat("m/p", &st) == 0 && st.st_uid == 500);
	int fd = open("/tmp/mapped", O_TMPFILE | O_RDWR, 0600);
	OK(fd >= 0 && fstat(fd, &st) == 0 && st.st_uid == 0);
	close(fd);
	OK(renameat2(AT_FDCWD, "/tmp/mapped/p", AT_FDCWD, "/tmp/mapped/q", RENAME_WHITEOUT) == 0);
	OK(lstat("m/p", &st) == 0 && S_ISCHR(st.st_mode) && st.st_uid == 500 && st.st_gid == 500);
	// Owners are given in the mount's own numbers; who is nobody in it cannot own anything.
	OK(chown("/tmp/mapped/new", 1000, 1000) == 0);
	OK(stat("m/new", &st) == 0 && st.st_uid == 0 && st.st_gid == 0);
	OK(chown("/tmp/mapped/new", 0, -1) == 0 && stat("m/new", &st) == 0 && st.st_uid == 500);
	ERR(EOVERFLOW, chown("/tmp/mapped/new", 7, 7));
	// So is what a user may do, and what he makes.
	pid_t child = branch();
	if (child == 0) {
		OK(setgid(1000) == 0 && setuid(1000) == 0);
		OK(chmod("/tmp/mapped/old", 0600) == 0 && text("/tmp/mapped/his", "his"));
		ERR(EPERM, chmod("/tmp/mapped/new", 0600));
		ERR(EPERM, chmod("m/old", 0644));
		_exit(failures);
	}
	int status = -1;
	OK(waitpid(child, &status, 0) == child && status == 0);
	OK(stat("m/his", &st) == 0 && st.st_uid == 0 && st.st_gid == 0);
	child = branch();
	if (child == 0) {
		OK(setuid(7) == 0);
		ERR(EOVERFLOW, open("/tmp/mapped/his2", O_CREAT | O_RDWR, 0600));
		_exit(failures);
	}
	OK(waitpid(child, &status, 0) == child && status == 0);
	OK(umount("/tmp/mapped") == 0);
}

static void misc(void)
{
	struct statx x;
	struct statfs s;
	int fd = filled("f", 10, 1);

	OK(statx(AT_FDCWD, "f", 0, STATX_ALL, &x) == 0 && x.stx_mask & STATX_BTIME && x.stx_btime.tv_sec > 1000000);
	OK(x.stx_attributes & STATX_ATTR_DAX);
	OK(statfs(".", &s) == 0 && s.f_bsize == 4096 && s.f_namelen == 255 && s.f_bfree > 0 && s.f_files > 0);
	OK(fsync(fd) == 0 && fdatasync(fd) == 0 && syncfs(fd) == 0);
	OK(sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) == 0);
	OK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0 && readahead(fd, 0, 10) == 0);
	ERR(ENOTTY, ioctl(fd, 0x1234, 0));
	struct timespec t[2] = { { -5, 999999999 }, { 4294967296, 1 } };
	struct stat st;
	OK(futimens(fd, t) == 0 && fstat(fd, &st) == 0);
	OK(st.st_atim.tv_sec == -5 && st.st_atim.tv_nsec == 999999999);
	OK(st.st_mtim.tv_sec == 4294967296 && st.st_mtim.tv_nsec == 1);
	t[0].tv_sec = INT64_MAX / 4, t[0].tv_nsec = 0;
	OK(futimens(fd, t) == 0 && fstat(fd, &st) == 0 && st.st_atim.tv_sec > 9000000000);
	close(fd);
	// A device's numbers, large ones too.
	OK(mknod("dev", S_IFCHR | 0600, (dev_t)0xfff << 8 | (dev_t)0xff << 20 | 0xfe) == 0 && stat("dev", &st) == 0);
	OK(st.st_rdev == ((dev_t)0xfff << 8 | (dev_t)0xff << 20 | 0xfe));
	char target[5000], have[5000];
	memset(target, 't', sizeof(target));
	target[4095] = 0;
	OK(symlink(target, "long") == 0 && readlink("long", have, sizeof(have)) == 4095);
	OK(lstat("long", &st) == 0 && st.st_size == 4095);
	target[4095] = 't', target[4096] = 0;
	ERR(ENAMETOOLONG, symlink(target, "longer"));
	// A lease, a lock, a program.
	fd = open("f", O_RDWR);
	OK(fcntl(fd, F_SETLEASE, F_WRLCK) == 0 && fcntl(fd, F_SETLEASE, F_UNLCK) == 0);
	close(fd);
	pid_t child = branch();
	if (child == 0) {
		int from = open("/proc/self/exe", O_RDONLY), to = open("prog", O_CREAT | O_WRONLY, 0755);
		while (sendfile(to, from, NULL, MIB) > 0)
			;
		close(to);
		execl("prog", "prog", ".", "nothing", NULL);
		_exit(99);
	}
	int status = -1;
	OK(waitpid(child, &status, 0) == child && status == 0);
	ERR(EINVAL, ioctl(open("f", O_RDWR), FIBMAP, &status));
}

static const struct {
	const char *name;
	void (*run)(void);
	int asked;
} tests[] = {
	{ "direct", direct, 0 },
	{ "direct_disk", direct_disk, 0 },
	{ "self_mapping", self_mapping, 0 },
	{ "pipes", pipes, 0 },
	{ "other_process", other_process, 0 },
	{ "copies", copies, 0 },
	{ "allocation", allocation, 0 },
	{ "holes", holes, 0 },
	{ "limits", limits, 0 },
	{ "huge", huge, 0 },
	{ "askew", askew, 0 },
	{ "ends", ends, 0 },
	{ "map_sync", map_sync, 0 },
	{ "race", race, 0 },
	{ "appends", appends, 0 },
	{ "nameless", nameless, 0 },
	{ "renames", renames, 0 },
	{ "directories", directories, 0 },
	{ "xattrs", xattrs, 0 },
	{ "groups", groups, 0 },
	{ "handles", handles, 0 },
	{ "mapped", mapped, 0 },
	{ "misc", misc, 0 },
	{ "stamps", stamps, 0 },
	{ "frozen", frozen, 0 },
	// Only by name.
	{ "handle_again", handle_again, 1 },
};

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc < 2 || chdir(argv[1]) != 0)
		return 2;
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		int wanted = argc == 2 && !tests[i].asked, before = failures;
		for (int j = 2; j < argc; j++)
			wanted |= strcmp(argv[j], tests[i].name) == 0;
		if (!wanted)
			continue;
		test = tests[i].name;
		printf("run  %s\n", test);
		tests[i].run();
		printf("%s %s\n", failures == before ? "ok  " : "BAD ", test);
	}
	return failures != 0;
}

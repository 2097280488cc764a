/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Lets a program in a guest tell the hypervisor what a piece of its data is worth.
 *
 * microvm --insight on gives each block of a disk the class of the file that it belongs to: the
 * smaller the file, the more is gained by keeping it close. A program that knows better says so in
 * the call itself, with two numbers in the argument registers that reads and writes leave unused:
 * INSIGHT_MAGIC in r8, and a hint in r9. The kernel does not look at them: without insight, on
 * another hypervisor and on bare metal, the calls are what they are without a hint.
 *
 * A hint is a class, and by | what is known of whether there is more data like it:
 * INSIGHT_BELOW_1_MIB | INSIGHT_NO_DEDUP. What is said at iopen holds for the reads and writes of
 * that descriptor that say nothing.
 *
 *     #include <insight_hints.h>
 *
 *     if (iwrite(fd, index, bytes, INSIGHT_METADATA) < 0)
 *             perror("index");
 *
 * Each is as the call of its name without the i: it may be interrupted, it may do a part, and on
 * failure it returns -1 and sets errno. They are not cancellation points of threads.
 */
#ifndef INSIGHT_HINTS_H
#define INSIGHT_HINTS_H

#if !defined(__linux__) || !defined(__x86_64__) || !defined(__LP64__)
#error "hints are in the registers of system calls of x86-64 Linux"
#endif

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/types.h>

/* Says that the next argument is a hint: SKYHINT1 when read from the highest byte on. */
#define INSIGHT_MAGIC 0x534b5948494e5431ul

/* What data can be worth, from the least on. */
enum insight_class {
	INSIGHT_OTHER = 0,        /* as data of a file of 10 MiB or more */
	INSIGHT_BELOW_10_MIB = 1, /* as data of a file of less than 10 MiB */
	INSIGHT_BELOW_5_MIB = 2,
	INSIGHT_BELOW_2_MIB = 3,
	INSIGHT_BELOW_1_MIB = 4,
	INSIGHT_METADATA = 5,     /* as the metadata of a file system */
	INSIGHT_BY_SIZE = 15      /* as the size of the file says: no class is given */
};

/* Whether there is data like it on the disk, or will be. */
#define INSIGHT_NO_DEDUP 0x10ul /* there is none, as of encrypted data: do not look for it */
#define INSIGHT_PREFETCH 0x20ul /* it is being copied: be ready for more of it */

static inline long insight_call(long number, long a, long b, long c, long d, unsigned long hint)
{
	register long r10 __asm__("r10") = d;
	register unsigned long r8 __asm__("r8") = INSIGHT_MAGIC;
	register unsigned long r9 __asm__("r9") = hint;
	long result;

	/* The kernel leaves r8, and a call without a hint may find it there: so it is cleared. */
	__asm__ volatile("syscall\n\txorl %%r8d, %%r8d"
			 : "=a"(result), "+r"(r8)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r9)
			 : "rcx", "r11", "cc", "memory");
	if (result < 0 && result >= -4095) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

/* write(2) with a hint. */
static inline ssize_t iwrite(int fd, const void *buf, size_t count, unsigned long hint)
{
	return insight_call(SYS_write, fd, (long)buf, (long)count, 0, hint);
}

/* pwrite(2) with a hint. */
static inline ssize_t ipwrite(int fd, const void *buf, size_t count, off_t offset,
			      unsigned long hint)
{
	return insight_call(SYS_pwrite64, fd, (long)buf, (long)count, (long)offset, hint);
}

/* read(2) with a hint. */
static inline ssize_t iread(int fd, void *buf, size_t count, unsigned long hint)
{
	return insight_call(SYS_read, fd, (long)buf, (long)count, 0, hint);
}

/* pread(2) with a hint. */
static inline ssize_t ipread(int fd, void *buf, size_t count, off_t offset,
			     unsigned long hint)
{
	return insight_call(SYS_pread64, fd, (long)buf, (long)count, (long)offset, hint);
}

/* open(2) with a hint for all of the file's data, unless a call says otherwise. Unlike there, the
 * mode is always given; it counts where flags has O_CREAT or O_TMPFILE. */
static inline int iopen(const char *path, int flags, mode_t mode, unsigned long hint)
{
	return (int)insight_call(SYS_openat, AT_FDCWD, (long)path, flags, (long)mode, hint);
}

#endif

// Makes stderr write in large pieces: drivers that print what they compile do so a word at a time, and a system call for each word takes
// longer than the compiling. What was printed before a line of stdout stands before it.

#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((constructor)) static void buffer_stderr(void) {
    setvbuf(stderr, NULL, _IOFBF, 1 << 20);
}

ssize_t write(int file, const void *bytes, size_t count) {
    if (file == STDERR_FILENO) {
        return (ssize_t)fwrite(bytes, 1, count, stderr);
    }
    if (file == STDOUT_FILENO) {
        fflush(stderr);
    }
    return syscall(SYS_write, file, bytes, count);
}

/*
 * Says what this machine's processor lacks, instead of dying of an illegal instruction.
 *
 * Everything is compiled for x86-64-v2 (.cargo/config.toml), RocksDB's static constructors too, which run before main. So this is C
 * for any x86-64, run before all constructors: .preinit_array is the first thing that the loader calls in a program. It calls nothing
 * but the kernel.
 */
#include <cpuid.h>
#include <unistd.h>

static void say(const char *text) {
    unsigned long length = 0;
    while (text[length]) length++;
    if (write(2, text, length) < 0) return;
}

static void check(void) {
    static const struct { unsigned int bit; const char *name; } needed[] = {
        {1u << 0, " SSE3"}, {1u << 9, " SSSE3"}, {1u << 13, " CMPXCHG16B"}, {1u << 19, " SSE4.1"}, {1u << 20, " SSE4.2"}, {1u << 23, " POPCNT"},
    };
    unsigned int a, b, c = 0, d, missing = 0;
    __get_cpuid(1, &a, &b, &c, &d);
    for (unsigned long i = 0; i < sizeof needed / sizeof *needed; i++) missing |= ~c & needed[i].bit;
    if (!missing) return;
    say("error: this machine's CPU has no");
    for (unsigned long i = 0; i < sizeof needed / sizeof *needed; i++)
        if (missing & needed[i].bit) say(needed[i].name);
    say(", and Forebay needs them, as every x86-64 server since 2009 has them. In a virtual machine, choose another CPU type "
        "(host, or x86-64-v2 and later) instead of kvm64 or qemu64.\n");
    _exit(1);
}

__attribute__((section(".preinit_array"), used)) static void (*const first)(void) = check;

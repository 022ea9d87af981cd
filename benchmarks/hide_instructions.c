/* Lets a program believe that its processor has fewer instructions (Linux on x86-64 with CPUID faulting).
 *
 *     gcc -O2 -shared -fPIC benchmarks/hide_instructions.c -o hide.so
 *     INSTRUCTIONS=AVX2 LD_PRELOAD=./hide.so python -m benchmarks.format_speed …
 *
 * INSTRUCTIONS is AVX512-VNNI (AMX is hidden), AVX512, AVX-VNNI or AVX2: what ONNX Runtime then finds, and uses.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { ARCH_SET_CPUID = 0x1012 };

static int hides_avx_vnni, hides_avx512, hides_vnni;

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)r[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) {
        struct sigaction usual = {.sa_handler = SIG_DFL};
        sigaction(SIGSEGV, &usual, NULL);
        return;
    }
    unsigned leaf = r[REG_RAX], sub = r[REG_RCX], a = leaf, b, c = sub, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && sub == 0) {
        d &= ~(7u << 22 | 1u << 25);
        if (hides_vnni || hides_avx512) c &= ~(1u << 11);
        if (hides_avx512) {
            b &= ~(1u << 16 | 1u << 17 | 1u << 21 | 7u << 26 | 1u << 30 | 1u << 31);
            c &= ~(1u << 1 | 1u << 6 | 1u << 12 | 1u << 14);
            d &= ~(1u << 2 | 1u << 3 | 1u << 8);
        }
    }
    if (leaf == 7 && sub == 1) {
        if (hides_avx512) a &= ~(1u << 5);
        a &= ~(1u << 21);
        if (hides_avx_vnni) { a &= ~(1u << 4); d &= ~(1u << 4 | 1u << 10); }
    }
    r[REG_RAX] = a; r[REG_RBX] = b; r[REG_RCX] = c; r[REG_RDX] = d;
    r[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *level = getenv("INSTRUCTIONS");
    if (!level || !*level) return;
    hides_avx512 = !strcmp(level, "AVX2") || !strcmp(level, "AVX-VNNI");
    hides_avx_vnni = strcmp(level, "AVX-VNNI") && strcmp(level, "AVX512-VNNI");
    hides_vnni = strcmp(level, "AVX512-VNNI");
    struct sigaction ours = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &ours, NULL);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) write(2, "no cpuid faulting\n", 18);
}

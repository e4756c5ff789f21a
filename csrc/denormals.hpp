// Denormal numbers, which some programs have the processor take for zero, count while this lives.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace repgeom {

class DenormalsCount {
  public:
    DenormalsCount() : before_(read()) {
        if ((before_ & kZeroing) != 0) write(before_ & ~kZeroing);
    }
    ~DenormalsCount() {
        if ((before_ & kZeroing) != 0) write(before_);
    }
    DenormalsCount(const DenormalsCount&) = delete;
    DenormalsCount& operator=(const DenormalsCount&) = delete;

  private:
#if defined(__x86_64__) || defined(_M_X64)
    static constexpr std::uint64_t kZeroing = 0x8040;  // FTZ, DAZ
    static std::uint64_t read() { return _mm_getcsr(); }
    static void write(std::uint64_t control) { _mm_setcsr(static_cast<unsigned>(control)); }
#elif defined(__aarch64__)
    static constexpr std::uint64_t kZeroing =
        (std::uint64_t{1} << 24) | (std::uint64_t{1} << 19);  // FZ, FZ16
    static std::uint64_t read() {
        std::uint64_t control;
        asm volatile("mrs %0, fpcr" : "=r"(control));
        return control;
    }
    static void write(std::uint64_t control) { asm volatile("msr fpcr, %0" : : "r"(control)); }
#else
    static constexpr std::uint64_t kZeroing = 0;
    static std::uint64_t read() { return 0; }
    static void write(std::uint64_t) {}
#endif

    std::uint64_t before_;
};

}  // namespace repgeom

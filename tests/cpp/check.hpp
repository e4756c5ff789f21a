// CHECK reports a condition that does not hold and goes on; main returns failures() != 0.
#pragma once

#include <cmath>
#include <cstdio>

namespace repgeom::test {

inline int& failures() {
    static int count = 0;
    return count;
}

inline void check(bool holds, const char* condition, const char* file, int line) {
    if (holds || ++failures() > 20) return;
    std::printf("%s:%d: does not hold: %s\n", file, line, condition);
}

// Written so that NaN is not close to anything.
inline bool close(long double value, long double expected, long double tolerance) {
    return std::fabs(value - expected) <= tolerance;
}

}  // namespace repgeom::test

#define CHECK(condition) repgeom::test::check((condition), #condition, __FILE__, __LINE__)

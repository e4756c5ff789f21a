// The template behind every kernel table. Included by one translation unit per instruction set, each compiled
// with its own flags. Everything is in an unnamed namespace and no library header with inline functions is
// included: an inline function compiled for AVX-512 here could otherwise be the copy that the linker keeps
// for code that must run anywhere.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>  // its functions are always inlined
#endif

#include "tile_kernels.hpp"

namespace repgeom {
namespace {

using half_t = std::uint16_t;  // bits of a float16 or bfloat16

inline float bits_to_float(std::uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

struct Float64 {
    using type = double;
    static double widen(double x) { return x; }
};

struct Float32 {
    using type = float;
    static float widen(float x) { return x; }
};

struct BFloat16 {
    using type = half_t;
    static float widen(half_t x) { return bits_to_float(std::uint32_t{x} << 16); }
};

struct Float16 {
    using type = half_t;
    // Exact, without branches: shift the fields into place, then rescale the exponent by 2^112, which is
    // exact for normal and subnormal numbers alike. Infinity and NaN get the exponent 255.
    static float widen(half_t x) {
        const std::uint32_t magnitude = (std::uint32_t{x} & 0x7fffu) << 13;
        const float scaled = bits_to_float(magnitude) * 0x1p112f;
        std::uint32_t bits;
        __builtin_memcpy(&bits, &scaled, sizeof bits);
        bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
        return bits_to_float(bits | (std::uint32_t{x} & 0x8000u) << 16);
    }
};

template <typename T, int Bytes, int Rows, int Vectors>
struct Tile {
    typedef T Vector __attribute__((vector_size(Bytes)));
    static constexpr index_t lanes = Bytes / static_cast<index_t>(sizeof(T));
    static constexpr index_t panel = lanes * Vectors;
    static constexpr index_t rows = Rows;
    static_assert(panel % Rows == 0);

    static Vector load(const T* from) {
        Vector v;
        __builtin_memcpy(&v, from, sizeof v);
        return v;
    }

    struct Product {
        __attribute__((always_inline)) static void add(Vector& sum, const Vector& left, const Vector& right) {
            sum += left * right;
        }
    };

    struct Difference {
        __attribute__((always_inline)) static void add(Vector& sum, const Vector& left, const Vector& right) {
            const Vector difference = left - right;
            sum -= difference * difference;
        }
    };

    // The inner loop of every kernel. What becomes of a finished tile is the epilogue's affair.
    template <typename Step = Product, typename Epilogue>
    __attribute__((always_inline)) static void multiply(const T* __restrict a, const T* __restrict b,
                                                        index_t k, const Epilogue& epilogue) {
        Vector sum[Rows][Vectors] = {};
        for (index_t i = 0; i < k; ++i, a += panel, b += panel) {
            Vector right[Vectors];
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) right[v] = load(b + v * lanes);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const Vector left = a[r] - Vector{};
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) Step::add(sum[r][v], left, right[v]);
            }
        }
        epilogue(sum);
    }

    template <bool add>
    struct ToFloat64 {
        double* __restrict c;
        void operator()(const Vector (&sum)[Rows][Vectors]) const {
            T tile[Rows * panel];
            __builtin_memcpy(tile, sum, sizeof tile);
            for (index_t i = 0; i < Rows * panel; ++i)
                c[i] = (add ? c[i] : 0.0) + static_cast<double>(tile[i]);
        }
    };

    static void store(const T* a, const T* b, index_t k, double* c) {
        multiply(a, b, k, ToFloat64<false>{c});
    }

    static void accumulate(const T* a, const T* b, index_t k, double* c) {
        multiply(a, b, k, ToFloat64<true>{c});
    }

    // Bit l is set where a[l] >= b[l].
    __attribute__((always_inline)) static std::uint64_t not_below(const Vector& a, const Vector& b) {
#if defined(__AVX512F__)
        if constexpr (Bytes == 64 && sizeof(T) == 4)
            return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
        else if constexpr (Bytes == 64)
            return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OQ);
        else
#endif
        {
            const auto holds = a >= b;
#if defined(__AVX2__)
            if constexpr (Bytes == 32 && sizeof(T) == 4)
                return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)holds));
            else if constexpr (Bytes == 32)
                return static_cast<std::uint32_t>(_mm256_movemask_pd((__m256d)holds));
            else
#elif defined(__x86_64__)
            if constexpr (Bytes == 16 && sizeof(T) == 4)
                return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)holds));
            else if constexpr (Bytes == 16)
                return static_cast<std::uint32_t>(_mm_movemask_pd((__m128d)holds));
            else
#endif
            {
                std::uint64_t bits = 0;
                for (index_t l = 0; l < lanes; ++l) bits |= static_cast<std::uint64_t>(holds[l] != 0) << l;
                return bits;
            }
        }
    }

    struct Passing {
        const double* c;
        const Limits<T>& limits;
        T* values;
        std::int32_t* codes;
        index_t& count;

        void operator()(Vector (&sum)[Rows][Vectors]) const {
            if (c != nullptr) add_up(sum);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const Vector limit = limits.row_limit[r] - Vector{}, level = limits.row_level[r] - Vector{};
                std::uint64_t passing = 0;
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) {
                    const Vector row_side = load(limits.column_level + v * lanes) - limit;
                    const Vector column_side = level - load(limits.column_limit + v * lanes);
                    passing |= not_below(sum[r][v], row_side < column_side ? row_side : column_side)
                               << (v * lanes);
                }
                if (__builtin_expect(passing != 0, 0)) keep(sum[r], r, passing);
            }
        }

        void add_up(Vector (&sum)[Rows][Vectors]) const {
            T tile[Rows * panel];
            __builtin_memcpy(tile, sum, sizeof tile);
            for (index_t i = 0; i < Rows * panel; ++i)
                tile[i] = static_cast<T>(c[i] + static_cast<double>(tile[i]));
            __builtin_memcpy(sum, tile, sizeof tile);
        }

        __attribute__((always_inline)) void keep(const Vector (&row)[Vectors], int r,
                                                 std::uint64_t passing) const {
            T tile[panel];
            __builtin_memcpy(tile, row, sizeof tile);
            for (; passing != 0; passing &= passing - 1, ++count) {
                const int j = __builtin_ctzll(passing);
                values[count] = tile[j];
                codes[count] = r * 65536 + j;
            }
        }
    };

    template <typename Step>
    static index_t threshold(const T* a, const T* b, index_t k, const double* c, const Limits<T>& limits,
                             T* values, std::int32_t* codes) {
        index_t count = 0;
        multiply<Step>(a, b, k, Passing{c, limits, values, codes, count});
        return count;
    }

    static bool all_finite(const T* values, index_t n) {
        Vector bad = {};  // x - x is 0 for every finite x and NaN for the others
        index_t i = 0;
        for (; i + lanes <= n; i += lanes) bad += load(values + i) - load(values + i);
        T total = 0;
        for (; i < n; ++i) total += values[i] - values[i];
        for (index_t j = 0; j < lanes; ++j) total += bad[j];
        return total == 0;
    }

    static void add(const T* __restrict values, index_t n, T* __restrict out) {
        for (index_t i = 0; i < n; ++i) out[i] += values[i];
    }

    // Row by row, as the source lies in memory: reading it panel by panel would defeat the prefetcher.
    template <typename Source, bool weighted>
    static void pack_rows(const PackSource& source, const T* shift, T* out, double* column_sums) {
        const auto* data = static_cast<const typename Source::type*>(source.data);
        const index_t whole = source.columns / panel;
        for (index_t i = 0; i < source.n_rows; ++i, out += panel) {
            const auto* row = data + (source.rows == nullptr ? i : source.rows[i]) * source.row_stride;
            const double weight = weighted ? source.weights[i] : 1.0;
            for (index_t p = 0; p < whole; ++p)
                pack_panel<Source>(row + p * panel, panel, shift + p * panel, weight,
                                   out + p * source.panel_stride, column_sums + p * panel);
            if (whole * panel < source.columns)
                pack_panel<Source>(row + whole * panel, source.columns - whole * panel, shift + whole * panel,
                                   weight, out + whole * source.panel_stride, column_sums + whole * panel);
        }
    }

    // One row of one panel. Beyond `columns` the panel is 0 and so are shift and sums.
    template <typename Source>
    __attribute__((always_inline)) static void pack_panel(const typename Source::type* __restrict row,
                                                          index_t columns, const T* __restrict shift,
                                                          double weight, T* __restrict out,
                                                          double* __restrict sums) {
        if (columns == panel) {
            for (index_t j = 0; j < panel; ++j) out[j] = static_cast<T>(Source::widen(row[j])) - shift[j];
        } else {
            for (index_t j = 0; j < columns; ++j) out[j] = static_cast<T>(Source::widen(row[j])) - shift[j];
            for (index_t j = columns; j < panel; ++j) out[j] = 0;
        }
        for (index_t j = 0; j < panel; ++j) sums[j] += weight * static_cast<double>(out[j]);
    }

    template <typename Source>
    static void pack(const PackSource& source, const T* shift, T* out, double* column_sums) {
        source.weights == nullptr ? pack_rows<Source, false>(source, shift, out, column_sums)
                                  : pack_rows<Source, true>(source, shift, out, column_sums);
    }

    static void scale_rows(const T* in, const double* weights, index_t n_rows, T* __restrict out) {
        for (index_t i = 0; i < n_rows; ++i)
            for (index_t j = 0; j < panel; ++j)
                out[i * panel + j] = static_cast<T>(weights[i]) * in[i * panel + j];
    }

    static double multiply_add_loop(index_t iterations) {
        Vector sum[Rows][Vectors];  // all different, or the compiler would keep only one of them
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) sum[r][v] = Vector{} + static_cast<T>(r * Vectors + v);
        Vector factor = Vector{} + static_cast<T>(0.5);
        for (index_t i = 0; i < iterations; ++i) {
            // Hides the operand from the compiler, which would otherwise move the arithmetic out of the loop.
            __asm__ volatile("" : "+m"(factor));
            const Vector f = factor;
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < Vectors; ++v) sum[r][v] = sum[r][v] * f + f;
        }
        Vector total = {};
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < Vectors; ++v) total += sum[r][v];
        __asm__ volatile("" : : "m"(total));
        return 2.0 * static_cast<double>(iterations * Rows * panel);
    }
};

template <int Bytes, int Rows, int Vectors>
constexpr KernelTable make_table(const char* name) {
    using F = Tile<float, Bytes, Rows, Vectors>;
    using D = Tile<double, Bytes, Rows, Vectors>;
    return {name,
            {F::panel, F::rows, F::store, F::accumulate, nullptr, F::template pack<Float32>,
             F::template pack<Float16>, F::template pack<BFloat16>, F::scale_rows,
             F::template threshold<typename F::Product>, F::template threshold<typename F::Difference>},
            {D::panel, D::rows, D::store, D::accumulate, D::template pack<Float64>, D::template pack<Float32>,
             D::template pack<Float16>, D::template pack<BFloat16>, D::scale_rows,
             D::template threshold<typename D::Product>, D::template threshold<typename D::Difference>},
            D::all_finite,
            D::add,
            F::multiply_add_loop};
}

}  // namespace
}  // namespace repgeom

// The template behind every PairKernels. Included by one translation unit per instruction set, compiled
// without contraction of products and sums. Everything is in an unnamed namespace, as in
// tile_kernels_impl.hpp.
#pragma once

#include "neighbors_pairs.hpp"
#include "tile_kernels_impl.hpp"

namespace repgeom {
namespace {

typedef double Lanes __attribute__((vector_size(64)));
constexpr index_t n_lanes = 8;

#define REPGEOM_INLINE __attribute__((always_inline)) inline

REPGEOM_INLINE void load(Lanes& into, const double* from) { __builtin_memcpy(&into, from, sizeof into); }

// Up to 8 widened elements; 0 beyond n.
template <typename Source>
REPGEOM_INLINE void load_wide(Lanes& into, const typename Source::type* from, index_t n) {
    double values[n_lanes];
    for (index_t l = 0; l < n_lanes; ++l) values[l] = 0;
    for (index_t l = 0; l < n; ++l) values[l] = static_cast<double>(Source::widen(from[l]));
    load(into, values);
}

template <typename Source>
REPGEOM_INLINE void load_wide(Lanes& into, const typename Source::type* from) {
    double values[n_lanes];
    for (index_t l = 0; l < n_lanes; ++l) values[l] = static_cast<double>(Source::widen(from[l]));
    load(into, values);
}

template <Measure measure>
REPGEOM_INLINE void add_features(Lanes& sum, const Lanes& x, const Lanes& y) {
    const Lanes difference = x - y;
    if constexpr (measure == Measure::squared) {
        sum += difference * difference;
    } else if constexpr (measure == Measure::product) {
        sum -= x * y;
    } else if constexpr (measure == Measure::hamming) {
        sum += x != y ? Lanes{} + 1.0 : Lanes{};
    } else {
        const Lanes magnitude = difference < 0 ? -difference : difference;
        if constexpr (measure == Measure::manhattan)
            sum += magnitude;
        else
            sum = magnitude > sum ? magnitude : sum;
    }
}

REPGEOM_INLINE double larger(double a, double b) { return a > b ? a : b; }

template <Measure measure>
REPGEOM_INLINE double reduce(const Lanes& s) {
    if constexpr (measure == Measure::chebyshev)
        return larger(larger(larger(s[0], s[1]), larger(s[2], s[3])),
                      larger(larger(s[4], s[5]), larger(s[6], s[7])));
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

// `count` rows at a time: the additions of one row wait for each other, those of different rows do not.
template <Measure measure, typename Source, int count, bool scaled>
REPGEOM_INLINE void evaluate_group(const double* row, const typename Source::type* const* others,
                                   const double* factors, index_t columns, double* values) {
    Lanes sums[count];
    for (int m = 0; m < count; ++m) sums[m] = Lanes{};
    const index_t whole = columns / n_lanes * n_lanes;
    Lanes x, y;
    for (index_t c = 0; c < whole; c += n_lanes) {
        load(x, row + c);
#pragma GCC unroll 4
        for (int m = 0; m < count; ++m) {
            load_wide<Source>(y, others[m] + c);
            if constexpr (scaled) y *= factors[m];
            add_features<measure>(sums[m], x, y);
        }
    }
    if (whole < columns) {
        load(x, row + whole);
        for (int m = 0; m < count; ++m) {
            load_wide<Source>(y, others[m] + whole, columns - whole);
            if constexpr (scaled) y *= factors[m];
            add_features<measure>(sums[m], x, y);
        }
    }
    for (int m = 0; m < count; ++m) values[m] = reduce<measure>(sums[m]);
}

// largest (sum (|x - y| / largest)^p)^(1/p): no power of it leaves float64.
template <typename Source>
double minkowski(const double* row, const typename Source::type* other, double factor, index_t columns,
                 double exponent) {
    double largest = 0, sums[n_lanes] = {};
    for (index_t c = 0; c < columns; ++c)
        largest =
            larger(largest, __builtin_fabs(row[c] - factor * static_cast<double>(Source::widen(other[c]))));
    if (largest == 0) return 0;
    for (index_t c = 0; c < columns; ++c)
        sums[c % n_lanes] += __builtin_pow(
            __builtin_fabs(row[c] - factor * static_cast<double>(Source::widen(other[c]))) / largest,
            exponent);
    Lanes s;
    load(s, sums);
    return largest * __builtin_pow(reduce<Measure::minkowski>(s), 1 / exponent);
}

template <Measure measure, typename Source, bool scaled>
void evaluate_all(const double* row, const RowSource& source, const index_t* rows, index_t n_rows,
                  double* values) {
    constexpr int group = 4;
    const auto* data = static_cast<const typename Source::type*>(source.data);
    index_t m = 0;
    for (; m + group <= n_rows; m += group) {
        const typename Source::type* others[group];
        double group_factors[group];
        for (int g = 0; g < group; ++g) {
            others[g] = data + rows[m + g] * source.row_stride;
            group_factors[g] = scaled ? source.factors[rows[m + g]] : 1.0;
        }
        evaluate_group<measure, Source, group, scaled>(row, others, group_factors, source.columns,
                                                       values + m);
    }
    for (; m < n_rows; ++m) {
        const typename Source::type* other = data + rows[m] * source.row_stride;
        const double factor = scaled ? source.factors[rows[m]] : 1.0;
        evaluate_group<measure, Source, 1, scaled>(row, &other, &factor, source.columns, values + m);
    }
}

template <Measure measure, typename Source>
void evaluate(const double* row, const RowSource& source, const index_t* rows, index_t n_rows,
              double exponent, double* values) {
    if constexpr (measure == Measure::minkowski) {
        const auto* data = static_cast<const typename Source::type*>(source.data);
        for (index_t m = 0; m < n_rows; ++m)
            values[m] = minkowski<Source>(row, data + rows[m] * source.row_stride,
                                          source.factors == nullptr ? 1.0 : source.factors[rows[m]],
                                          source.columns, exponent);
    } else if (source.factors == nullptr) {
        evaluate_all<measure, Source, false>(row, source, rows, n_rows, values);
    } else {
        evaluate_all<measure, Source, true>(row, source, rows, n_rows, values);
    }
}

template <typename Source>
void widen_row(const void* row, index_t columns, double factor, double* out) {
    const auto* values = static_cast<const typename Source::type*>(row);
    for (index_t c = 0; c < columns; ++c) out[c] = factor * static_cast<double>(Source::widen(values[c]));
    for (index_t c = columns; c % n_lanes != 0; ++c) out[c] = 0;
}

template <typename Source>
double largest_magnitude(const void* values, index_t n) {
    const auto* data = static_cast<const typename Source::type*>(values);
    using Real = decltype(Source::widen(data[0]));
    Real largest[16] = {}, bad[16] = {};  // x - x is 0 for every finite x and NaN for the others
    index_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (index_t l = 0; l < 16; ++l) {
            const Real value = Source::widen(data[i + l]);
            const Real magnitude = value < 0 ? -value : value;
            largest[l] = magnitude > largest[l] ? magnitude : largest[l];
            bad[l] += value - value;
        }
    for (; i < n; ++i) {
        const Real value = Source::widen(data[i]);
        const Real magnitude = value < 0 ? -value : value;
        largest[0] = magnitude > largest[0] ? magnitude : largest[0];
        bad[0] += value - value;
    }
    double all = 0, wrong = 0;
    for (int l = 0; l < 16; ++l) {
        all = larger(all, static_cast<double>(largest[l]));
        wrong += static_cast<double>(bad[l]);
    }
    return all + wrong;
}

template <typename T>
void residual(const double* __restrict row, const double* __restrict centre, double scale, index_t n,
              T* __restrict out) {
    for (index_t c = 0; c < n; ++c) out[c] = static_cast<T>(scale * (row[c] - centre[c]));
}

template <typename T>
void norms(const T* __restrict panel, index_t width, const double* __restrict weights, index_t n,
           double* __restrict squares, double* __restrict weighted) {
    constexpr index_t strip = 32 / sizeof(T);  // the panels of every instruction set are multiples of it
    for (index_t first = 0; first < width; first += strip) {
        double square[strip] = {}, sum[strip] = {};
        for (index_t k = 0; k < n; ++k)
            for (index_t j = 0; j < strip; ++j) {
                const double x = static_cast<double>(panel[k * width + first + j]);
                square[j] += x * x;
                sum[j] += weights[k] * (x * x);
            }
        for (index_t j = 0; j < strip; ++j) {
            squares[first + j] += square[j];
            weighted[first + j] += sum[j];
        }
    }
}

template <typename T>
index_t count_below(const T* values, index_t n, T limit) {
    std::int32_t count = 0;
    for (index_t i = 0; i < n; ++i) count += values[i] <= limit;
    return count;
}

// Halves the range of values until few above the k-th are left in it, or nothing between its ends.
template <typename T>
T select(const T* values, index_t n, index_t k) {
    T low = values[0], high = values[0];
    for (index_t i = 1; i < n; ++i) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    for (index_t most = k + k / 16;;) {
        const T middle = low + (high - low) / 2;
        if (!(middle > low && middle < high)) return high;
        const index_t below = count_below(values, n, middle);
        if (below >= k) high = middle;
        if (below < k) low = middle;
        if (below >= k && below <= most) return high;
    }
}

template <typename T>
T bound(const Candidate<T>* candidates, index_t n, const T* gaps, T own, index_t k, T* __restrict uppers) {
    for (index_t e = 0; e < n; ++e) uppers[e] = candidates[e].key + (own + gaps[candidates[e].column]);
    return select(uppers, n, k);
}

template <typename T>
index_t keep(Candidate<T>* candidates, index_t n, T limit) {
    index_t kept = 0;
    for (index_t e = 0; e < n; ++e) {
        const Candidate<T> candidate = candidates[e];
        candidates[kept] = candidate;
        kept += candidate.key <= limit;
    }
    return kept;
}

template <typename Source>
constexpr void fill_dtype(PairKernels& table, int dtype) {
    table.evaluate[static_cast<int>(Measure::squared)][dtype] = evaluate<Measure::squared, Source>;
    table.evaluate[static_cast<int>(Measure::product)][dtype] = evaluate<Measure::product, Source>;
    table.evaluate[static_cast<int>(Measure::manhattan)][dtype] = evaluate<Measure::manhattan, Source>;
    table.evaluate[static_cast<int>(Measure::chebyshev)][dtype] = evaluate<Measure::chebyshev, Source>;
    table.evaluate[static_cast<int>(Measure::minkowski)][dtype] = evaluate<Measure::minkowski, Source>;
    table.evaluate[static_cast<int>(Measure::hamming)][dtype] = evaluate<Measure::hamming, Source>;
    table.widen[dtype] = widen_row<Source>;
    table.largest[dtype] = largest_magnitude<Source>;
}

constexpr PairKernels make_pairs(const char* name) {
    PairKernels table{};
    table.name = name;
    fill_dtype<Float64>(table, 0);
    fill_dtype<Float32>(table, 1);
    fill_dtype<Float16>(table, 2);
    fill_dtype<BFloat16>(table, 3);
    table.residual32 = residual<float>;
    table.residual64 = residual<double>;
    table.norms32 = norms<float>;
    table.norms64 = norms<double>;
    table.bound32 = bound<float>;
    table.bound64 = bound<double>;
    table.select32 = select<float>;
    table.select64 = select<double>;
    table.keep32 = keep<float>;
    table.keep64 = keep<double>;
    return table;
}

#undef REPGEOM_INLINE

}  // namespace
}  // namespace repgeom

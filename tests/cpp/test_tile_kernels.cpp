// Every kernel table that runs here against plain loops, and every 16-bit pattern against Eigen's
// conversions.
#include "tile_kernels.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.hpp"
#include "cpu_dispatch.hpp"

using repgeom::index_t;
using repgeom::KernelTable;
using repgeom::Pack;
using repgeom::PackSource;
using repgeom::TileKernels;
using repgeom::test::close;

namespace {

template <typename T>
std::vector<T> random_values(index_t count, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<double> normal;
    std::vector<T> values(static_cast<std::size_t>(count));
    for (T& value : values) value = static_cast<T>(normal(engine));
    return values;
}

template <typename T>
void check_product(const TileKernels<T>& kernels, index_t k, index_t group, bool add) {
    const index_t width = kernels.panel;
    const auto a = random_values<T>(k * width, 1), b = random_values<T>(k * width, 2);
    const auto start = random_values<double>(kernels.rows * width, 3);
    auto c = start;
    const index_t first = group * kernels.rows;
    (add ? kernels.accumulate : kernels.store)(a.data() + first, b.data(), k, c.data());
    for (index_t r = 0; r < kernels.rows; ++r)
        for (index_t j = 0; j < width; ++j) {
            long double sum = 0, size = 0;
            for (index_t i = 0; i < k; ++i) {
                const long double product = static_cast<long double>(a[i * width + first + r]) *
                                            static_cast<long double>(b[i * width + j]);
                sum += product;
                size += std::fabs(product);
            }
            const long double before = add ? start[r * width + j] : 0;
            const long double tolerance = std::numeric_limits<T>::epsilon() * std::sqrt(k + 1.0L) * size +
                                          std::numeric_limits<double>::epsilon() * (std::fabs(before) + size);
            CHECK(close(c[r * width + j], before + sum, tolerance));
        }
}

template <typename T>
void check_products(const TileKernels<T>& kernels) {
    CHECK(kernels.panel % kernels.rows == 0);
    for (const index_t k : {0, 1, 2, 7, 64, 511, 512})
        for (index_t group = 0; group < kernels.panel / kernels.rows; ++group)
            for (const bool add : {false, true}) check_product(kernels, k, group, add);
}

template <typename T>
using Bits = std::conditional_t<std::is_same_v<T, float>, std::uint32_t, std::uint64_t>;

template <typename T>
Bits<T> bits_of(T value) {
    Bits<T> bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// All 65536 patterns, `panel` to a row; what is left of the last row is 0.
template <typename Half, typename T>
void check_all_patterns(const TileKernels<T>& kernels, Pack<T> pack) {
    const index_t width = kernels.panel, rows = (65536 + width - 1) / width;
    std::vector<std::uint16_t> patterns(static_cast<std::size_t>(rows * width));
    for (index_t i = 0; i < 65536; ++i) patterns[i] = static_cast<std::uint16_t>(i);
    std::vector<T> shift(static_cast<std::size_t>(width)), panel(patterns.size());
    std::vector<double> sums(shift.size());
    pack({patterns.data(), width, nullptr, nullptr, rows, width, rows * width}, shift.data(), panel.data(),
         sums.data());
    for (index_t i = 0; i < 65536; ++i) {
        const T expected = static_cast<T>(static_cast<float>(Eigen::numext::bit_cast<Half>(patterns[i])));
        if (std::isnan(expected))
            CHECK(std::isnan(panel[i]));
        else
            CHECK(bits_of(panel[i]) == bits_of(expected));
    }
}

// Chosen rows of a wider matrix, a last panel that is not full, panels with gaps between them, shift,
// weights.
template <typename Source, typename T>
void check_pack(const TileKernels<T>& kernels, Pack<T> pack, index_t columns, bool weighted) {
    const index_t width = kernels.panel, stride = columns + 3, panels = (columns + width - 1) / width;
    std::vector<Source> matrix;
    for (const double value : random_values<double>(20 * stride, 4))
        matrix.push_back(static_cast<Source>(static_cast<float>(value)));
    const std::vector<index_t> rows{3, 4, 7, 0, 19, 19};
    const auto n_rows = static_cast<index_t>(rows.size()), panel_stride = (n_rows + 2) * width;
    const std::vector<double> weights{1, 0.5, 2, 3, 0.25, 1};
    auto shift = random_values<T>(panels * width, 5);
    std::fill(shift.begin() + columns, shift.end(), T{0});
    std::vector<T> packed(static_cast<std::size_t>(panels * panel_stride), T{77});
    std::vector<double> sums(shift.size(), 10.0);
    pack({matrix.data(), stride, rows.data(), weighted ? weights.data() : nullptr, n_rows, columns,
          panel_stride},
         shift.data(), packed.data(), sums.data());
    for (index_t j = 0; j < panels * width; ++j) {
        const T* column = packed.data() + j / width * panel_stride + j % width;
        double sum = 10;
        for (index_t k = 0; k < n_rows; ++k) {
            const T value = j < columns ? static_cast<T>(matrix[rows[k] * stride + j]) - shift[j] : T{0};
            CHECK(column[k * width] == value);
            sum += (weighted ? weights[k] : 1.0) * static_cast<double>(value);
        }
        CHECK(close(sums[j], sum, 1e-13));
        for (index_t k = n_rows; k < n_rows + 2; ++k) CHECK(column[k * width] == T{77});
    }
}

template <typename Source, typename T>
void check_pack(const TileKernels<T>& kernels, Pack<T> pack) {
    const index_t width = kernels.panel;
    for (const index_t columns : {index_t{1}, width - 1, width, width + 1, 3 * width - 2})
        for (const bool weighted : {false, true}) check_pack<Source>(kernels, pack, columns, weighted);
}

template <typename T>
void check_packs(const TileKernels<T>& kernels) {
    check_pack<float>(kernels, kernels.pack_float32);
    check_pack<Eigen::half>(kernels, kernels.pack_float16);
    check_pack<Eigen::bfloat16>(kernels, kernels.pack_bfloat16);
    check_all_patterns<Eigen::half>(kernels, kernels.pack_float16);
    check_all_patterns<Eigen::bfloat16>(kernels, kernels.pack_bfloat16);
}

template <typename T>
void check_scale_rows(const TileKernels<T>& kernels) {
    const index_t n_rows = 9;
    const auto panel = random_values<T>(n_rows * kernels.panel, 6);
    const auto weights = random_values<double>(n_rows, 7);
    std::vector<T> out(panel.size());
    kernels.scale_rows(panel.data(), weights.data(), n_rows, out.data());
    for (index_t i = 0; i < n_rows * kernels.panel; ++i)
        CHECK(out[i] == static_cast<T>(weights[i / kernels.panel]) * panel[i]);
}

void check_vectors(const KernelTable& table) {
    for (const index_t n : {0, 1, 7, 8, 31, 64}) {
        const auto values = random_values<double>(n, 8), start = random_values<double>(n + 1, 9);
        auto out = start;
        table.add(values.data(), n, out.data());
        for (index_t i = 0; i < n; ++i) CHECK(out[i] == start[i] + values[i]);
        CHECK(out[n] == start[n]);
        CHECK(table.all_finite(values.data(), n));
        for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL})
            for (index_t i = 0; i < n; ++i) {
                auto spoilt = values;
                spoilt[i] = bad;
                CHECK(!table.all_finite(spoilt.data(), n));
            }
    }
    const std::vector<double> large(64, std::numeric_limits<double>::max());
    CHECK(table.all_finite(large.data(), 64));
}

void check_names() {
    for (const KernelTable* table : repgeom::available_kernels())
        CHECK(&repgeom::kernels(table->name) == table);
    CHECK(&repgeom::kernels("") == repgeom::available_kernels().back());
    bool caught = false;
    try {
        repgeom::kernels("mmx");
    } catch (const std::invalid_argument& error) {
        caught = std::string_view(error.what()).ends_with(", got mmx");
    }
    CHECK(caught);
}

}  // namespace

int main() {
    check_names();
    CHECK(!repgeom::available_kernels().empty());
    for (const KernelTable* table : repgeom::available_kernels()) {
        std::printf("%s\n", table->name);
        check_products(table->float32);
        check_products(table->float64);
        check_packs(table->float32);
        check_packs(table->float64);
        CHECK(table->float32.pack_float64 == nullptr);
        check_pack<double>(table->float64, table->float64.pack_float64);
        check_vectors(*table);
        check_scale_rows(table->float32);
        check_scale_rows(table->float64);
        const auto tile = static_cast<double>(table->float32.rows * table->float32.panel);
        CHECK(table->multiply_add_loop(10) == 2 * 10 * tile);
    }
    return repgeom::test::failures() != 0;
}

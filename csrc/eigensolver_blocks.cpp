#include "eigensolver_blocks.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>

#include "random.hpp"

namespace repgeom {

namespace {

constexpr index_t task_rows = 96;  // rows of the result that one task owns; a multiple of 8
constexpr index_t depth = 512;     // of a run of products that stays in the caches

index_t tasks_for(index_t rows, index_t size) { return (rows + size - 1) / size; }

// c[r] += rows r of a times b, for any number of rows.
void multiply_tile(const BlockTiles& tiles, index_t rows, const double* a, index_t row_step, index_t step,
                   const double* b, index_t n, double* c) {
    const index_t whole = rows / tile_rows * tile_rows;
    for (index_t r = 0; r < whole; r += tile_rows)
        tiles.multiply_rows(a + r * row_step, row_step, step, b, n, c + r * panel_width);
    for (index_t r = whole; r < rows; ++r)
        tiles.multiply_row(a + r * row_step, row_step, step, b, n, c + r * panel_width);
}

std::array<double, 4> normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    const PhiloxBlock bits =
        philox4x32({low(index), high(index), low(stream), high(stream)}, {low(seed), high(seed)});
    std::array<double, 4> out;
    for (int pair = 0; pair < 2; ++pair) {  // Box and Muller (1958)
        const double radius = std::sqrt(-2 * std::log((bits[2 * pair] + 0.5) * 0x1p-32));
        const double angle = 2 * std::numbers::pi * 0x1p-32 * bits[2 * pair + 1];
        out[2 * pair] = radius * std::cos(angle);
        out[2 * pair + 1] = radius * std::sin(angle);
    }
    return out;
}

std::size_t size_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// The shifted rows in float64, as tiles need them.
class Reader {
  public:
    Reader(const ShiftedRows& rows, const BlockTiles& tiles)
        : rows_(rows), widen_(tiles.widen[static_cast<int>(rows.x.dtype)]) {}

    void read(index_t row, index_t column, index_t n, double* out) const {
        const index_t source = rows_.kept == nullptr ? row : rows_.kept[row];
        const auto* from = static_cast<const std::byte*>(rows_.x.data);
        widen_(from + static_cast<std::size_t>(source * rows_.x.row_stride + column) * size_of(rows_.x.dtype),
               rows_.shift == nullptr ? nullptr : rows_.shift + column, n, out);
    }

    double weight(index_t row) const { return rows_.weights == nullptr ? 1.0 : rows_.weights[row]; }

  private:
    const ShiftedRows& rows_;
    void (*widen_)(const void*, const double*, index_t, double*);
};

// z = weight * (x - s) block, for `z.rows()` rows from `first` on.
void project(Crew& crew, const ShiftedRows& rows, index_t first, index_t count, const Block& block,
             const Block& z, double* squares) {
    const Reader reader(rows, crew.tiles);
    const index_t dim = rows.x.columns;
    crew.team.run(tasks_for(count, task_rows), [&](index_t task, int) {
        const index_t begin = task * task_rows, size = std::min(task_rows, count - begin);
        std::vector<double> tile(static_cast<std::size_t>(size * depth));
        for (index_t r = begin; r < begin + size; ++r) squares[r] = 0;
        for (index_t p = 0; p < z.panels(); ++p)
            std::fill_n(z.panel(p) + begin * panel_width, size * panel_width, 0.0);
        for (index_t k = 0; k < dim; k += depth) {
            const index_t n = std::min(depth, dim - k);
            for (index_t r = 0; r < size; ++r) {
                double* values = tile.data() + r * depth;
                reader.read(first + begin + r, k, n, values);
                double sum = 0;
                for (index_t i = 0; i < n; ++i) sum += values[i] * values[i];
                squares[begin + r] += sum;
            }
            for (index_t p = 0; p < z.panels(); ++p)
                multiply_tile(crew.tiles, size, tile.data(), depth, 1, block.panel(p) + k * panel_width, n,
                              z.panel(p) + begin * panel_width);
        }
        for (index_t r = begin; rows.weights != nullptr && r < begin + size; ++r)
            for (index_t j = 0; j < z.columns(); ++j) z.at(r, j) *= reader.weight(first + r);
    });
}

// out += (x - s)^T z
void gather(Crew& crew, const ShiftedRows& rows, index_t first, index_t count, const Block& z,
            const Block& out, double* sums) {
    const Reader reader(rows, crew.tiles);
    const index_t dim = rows.x.columns, run = 256;
    crew.team.run(tasks_for(dim, task_rows), [&](index_t task, int) {
        const index_t begin = task * task_rows, size = std::min(task_rows, dim - begin);
        std::vector<double> tile(static_cast<std::size_t>(task_rows * run));
        for (index_t k = 0; k < count; k += run) {
            const index_t n = std::min(run, count - k);
            for (index_t r = 0; r < n; ++r) {
                double* values = tile.data() + r * task_rows;
                reader.read(first + k + r, begin, size, values);
                const double weight = reader.weight(first + k + r);
                for (index_t i = 0; sums != nullptr && i < size; ++i) sums[begin + i] += weight * values[i];
            }
            for (index_t p = 0; p < z.panels(); ++p)
                multiply_tile(crew.tiles, size, tile.data(), 1, task_rows, z.panel(p) + k * panel_width, n,
                              out.panel(p) + begin * panel_width);
        }
    });
}

}  // namespace

Block::Block(index_t rows, index_t panels) : rows_(rows), panels_(panels) {
    data_.reset(rows * panels * panel_width);
    clear();
}

void Block::clear() const { std::fill_n(data_.data(), rows_ * panels_ * panel_width, 0.0); }

void fill_normal(const Block& out, index_t columns, std::uint64_t seed, std::uint64_t stream,
                 ThreadTeam& team) {
    constexpr index_t rows = 64;
    const index_t per_row = (out.columns() + 3) / 4;
    static_assert(panel_width % 4 == 0);
    team.run(tasks_for(out.rows(), rows), [&](index_t task, int) {
        for (index_t i = task * rows; i < std::min(out.rows(), (task + 1) * rows); ++i)
            for (index_t group = 0; group < per_row; ++group) {
                const index_t j = 4 * group;
                // Keyed by (row, group of columns) in 32 bits each, so that no width
                // changes a number.
                const auto index = static_cast<std::uint64_t>(i) << 32 | static_cast<std::uint64_t>(group);
                const std::array<double, 4> values = normals(seed, stream, index);
                for (index_t l = 0; l < 4; ++l) out.at(i, j + l) = j + l < columns ? values[l] : 0.0;
            }
    });
}

void inner(Crew& crew, const Block& a, index_t panels, const Block& b, const Block& out) {
    constexpr index_t run = 128;
    crew.team.run(panels * b.panels(), [&](index_t task, int) {
        const index_t pa = task / b.panels(), pb = task % b.panels();
        double* c = out.panel(pb) + pa * panel_width * panel_width;
        std::fill_n(c, panel_width * panel_width, 0.0);
        for (index_t k = 0; k < a.rows(); k += run)
            multiply_tile(crew.tiles, panel_width, a.panel(pa) + k * panel_width, 1, panel_width,
                          b.panel(pb) + k * panel_width, std::min(run, a.rows() - k), c);
    });
}

void add_product(Crew& crew, const Block& a, index_t panels, const Block& s, double sign, const Block& out) {
    Block signed_s(s.rows(), s.panels());
    for (index_t p = 0; p < s.panels(); ++p)
        for (index_t i = 0; i < s.rows() * panel_width; ++i) signed_s.panel(p)[i] = sign * s.panel(p)[i];
    crew.team.run(tasks_for(out.rows(), task_rows), [&](index_t task, int) {
        const index_t begin = task * task_rows, end = std::min(out.rows(), begin + task_rows);
        for (index_t row = begin; row < end; row += tile_rows)
            for (index_t po = 0; po < out.panels(); ++po)
                for (index_t p = 0; p < panels; ++p)
                    multiply_tile(crew.tiles, std::min(tile_rows, end - row), a.panel(p) + row * panel_width,
                                  panel_width, 1, signed_s.panel(po) + p * panel_width * panel_width,
                                  panel_width, out.panel(po) + row * panel_width);
    });
}

void multiply(Crew& crew, const MatrixView& matrix, const Block& block, const Block& out) {
    const auto* entries = static_cast<const double*>(matrix.data);
    crew.team.run(tasks_for(matrix.rows, task_rows), [&](index_t task, int) {
        const index_t begin = task * task_rows, end = std::min(matrix.rows, begin + task_rows);
        for (index_t p = 0; p < out.panels(); ++p)
            std::fill_n(out.panel(p) + begin * panel_width, (end - begin) * panel_width, 0.0);
        for (index_t k = 0; k < matrix.columns; k += depth) {
            const index_t n = std::min(depth, matrix.columns - k);
            for (index_t row = begin; row < end; row += tile_rows)
                for (index_t p = 0; p < out.panels(); ++p)
                    multiply_tile(crew.tiles, std::min(tile_rows, end - row),
                                  entries + row * matrix.row_stride + k, matrix.row_stride, 1,
                                  block.panel(p) + k * panel_width, n, out.panel(p) + row * panel_width);
        }
    });
}

void multiply_covariance(Crew& crew, const ShiftedRows& rows, const Block& block, const Block& out,
                         double* sums, double* squares) {
    constexpr index_t chunk = 2048;
    const Block z(std::min(chunk, rows.count), block.panels());
    std::vector<double> row_squares(static_cast<std::size_t>(z.rows()));
    for (index_t first = 0; first < rows.count; first += chunk) {
        const index_t count = std::min(chunk, rows.count - first);
        project(crew, rows, first, count, block, z, row_squares.data());
        gather(crew, rows, first, count, z, out, sums);
        for (index_t r = 0; squares != nullptr && r < count; ++r)
            *squares += (rows.weights == nullptr ? 1.0 : rows.weights[first + r]) * row_squares[r];
    }
}

}  // namespace repgeom

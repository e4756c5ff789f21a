// Blocks of columns in panels, and the products that eigensolvers and sketches
// are made of. Every number is summed in an order that depends on shapes alone,
// so no result depends on the number of threads.
#pragma once

#include <vector>

#include "cpu_dispatch.hpp"
#include "eigensolver_tiles.hpp"
#include "neighbors_panels.hpp"
#include "parallel.hpp"
#include "types.hpp"

namespace repgeom {

// [rows, 24 * panels] in float64.
class Block {
  public:
    Block() = default;
    Block(index_t rows, index_t panels);

    index_t rows() const { return rows_; }
    index_t panels() const { return panels_; }
    index_t columns() const { return panels_ * panel_width; }
    double* panel(index_t p) const { return data_.data() + p * rows_ * panel_width; }
    double& at(index_t i, index_t j) const {
        return panel(j / panel_width)[i * panel_width + j % panel_width];
    }
    void clear() const;

  private:
    index_t rows_ = 0, panels_ = 0;
    AlignedArray<double> data_;
};

constexpr index_t panels_for(index_t columns) { return (columns + panel_width - 1) / panel_width; }

// What computes, and with how many threads.
struct Crew {
    ThreadTeam& team;
    const BlockTiles& tiles;
};

// Standard normal numbers: what is at (i, j) depends on seed, stream, i and j
// alone. Columns from `columns` on are 0.
void fill_normal(const Block& out, index_t columns, std::uint64_t seed, std::uint64_t stream,
                 ThreadTeam& team);

// out = a^T b, with the first `panels` panels of a.
void inner(Crew& crew, const Block& a, index_t panels, const Block& b, const Block& out);

// out += sign * a s, with the first `panels` panels of a; s has 24 * panels
// rows.
void add_product(Crew& crew, const Block& a, index_t panels, const Block& s, double sign, const Block& out);

// out = matrix * block, for a float64 matrix that is read once.
void multiply(Crew& crew, const MatrixView& matrix, const Block& block, const Block& out);

// Rows x - shift of a matrix: those at `kept` (null: all), each with a weight
// (null: 1).
struct ShiftedRows {
    MatrixView x;
    const double* shift = nullptr;
    const index_t* kept = nullptr;
    const double* weights = nullptr;  // of the kept rows
    index_t count = 0;                // kept rows
};

// out += sum over rows of weight * (x - s) ((x - s)^T block). With `sums`, also
// sums[j] += weight * (x - s)_j and squares += weight * |x - s|^2.
void multiply_covariance(Crew& crew, const ShiftedRows& rows, const Block& block, const Block& out,
                         double* sums = nullptr, double* squares = nullptr);

}  // namespace repgeom

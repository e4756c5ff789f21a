// The second part of an update: the products of the panels, tile by tile, added to the sums. Each tile of the
// result is owned by one task, so that no result depends on the number of threads.
#pragma once

#include <cmath>
#include <limits>

#include "covariance_job.hpp"

namespace repgeom {

struct Tile {
    index_t job;
    bool cross;
    index_t i;  // block of rows and of columns
    index_t j;
};

template <typename T>
class Multiplier {
  public:
    Multiplier(const Context<T>& context, index_t widest)
        : at_(context),
          block_panels_(std::max<index_t>(1, (widest > 1024 ? 192 : 96) / context.kernels.panel)) {
        const index_t block = block_panels_ * at_.kernels.panel;
        products_.resize(static_cast<std::size_t>(at_.team.size()));
        for (auto& product : products_) product.resize(static_cast<std::size_t>(block * block));
    }

    void multiply(std::span<Job<T>> jobs) {
        std::vector<Tile> tiles, diagonal;
        for (index_t at = 0; at < static_cast<index_t>(jobs.size()); ++at) {
            const Job<T>& job = jobs[at];
            if (job.chunk_rows() == 0) continue;
            const index_t rows = blocks(job.x);
            for (index_t i = 0; i < rows; ++i) {
                for (index_t j = 0; j < i; ++j) tiles.push_back({at, false, i, j});
                for (index_t j = 0; job.has_cross() && j < blocks(job.cross); ++j)
                    tiles.push_back({at, true, i, j});
                diagonal.push_back({at, false, i, i});
            }
        }
        tiles.insert(tiles.end(), diagonal.begin(), diagonal.end());  // the small ones last
        at_.team.run(static_cast<index_t>(tiles.size()), [&](index_t task, int thread) {
            const Tile& tile = tiles[task];
            multiply_tile(jobs[tile.job], tile, products_[thread].data());
        });
    }

    void add_sums(Job<T>& job) {
        Moments& m = *job.moments;
        const double weight = job.weight;
        if (job.has_cross()) add_squares(job);
        for (const Operand<T>* operand : {&job.x, &job.cross})
            for (index_t j = 0; operand->side != nullptr && j < operand->side->dim; ++j)
                operand->side->sum[j] += operand->sums[j] + weight * operand->delta[j];
        m.count += job.chunk_rows();
        m.weight_sum += weight;
        if (job.weights.empty()) m.weight_square_sum += weight;
        for (index_t i = job.begin; !job.weights.empty() && i < job.end; ++i)
            m.weight_square_sum += job.weights[i] * job.weights[i];
    }

  private:
    static constexpr double unit = std::numeric_limits<T>::epsilon() / 2;

    index_t blocks(const Operand<T>& operand) const {
        return (operand.panels + block_panels_ - 1) / block_panels_;
    }

    // Calls visit(row, column, c) for the micro-tiles of a tile, c its rows x panel sums, in order of
    // storage.
    template <typename Visit>
    void for_each_micro_tile(const Job<T>& job, const Tile& tile, double* product, const Visit& visit) const {
        const Operand<T>& right = tile.cross ? job.cross : job.x;
        const index_t j_end = std::min((tile.j + 1) * block_panels_, right.panels);
        const index_t i_end = std::min((tile.i + 1) * block_panels_, job.x.panels);
        double* c = product;
        for (index_t jp = tile.j * block_panels_; jp < j_end; ++jp)
            for (index_t ip = tile.i * block_panels_; ip < i_end; ++ip)
                for (index_t g = 0; g < at_.kernels.panel;
                     g += at_.kernels.rows, c += at_.kernels.rows * at_.kernels.panel) {
                    const index_t row = ip * at_.kernels.panel + g, column = jp * at_.kernels.panel;
                    const bool above_diagonal = !tile.cross && row + at_.kernels.rows <= column;
                    if (above_diagonal || row >= job.x.view.columns) continue;
                    visit(row, column, c);
                }
    }

    void multiply_tile(Job<T>& job, const Tile& tile, double* product) {
        const Operand<T>& right = tile.cross ? job.cross : job.x;
        // 512 squares of whole numbers up to 127 stay below 2^24, so do 256 of shifted ones: both sums are
        // exact.
        const index_t run =
            job.x.shifted || right.shifted ? std::max<index_t>(1, at_.options.run / 2) : at_.options.run;
        for (index_t k = 0; k < job.chunk_rows(); k += run) {
            const index_t n_rows = std::min(run, job.chunk_rows() - k);
            for_each_micro_tile(job, tile, product, [&](index_t row, index_t column, double* c) {
                const auto multiply = k == 0 ? at_.kernels.store : at_.kernels.accumulate;
                multiply(at_.element(job, job.x.scaled, row, k), at_.element(job, right.packed, column, k),
                         n_rows, c);
            });
        }
        bool finite = true;
        for_each_micro_tile(job, tile, product, [&](index_t, index_t, const double* c) {
            finite = finite && at_.options.kernels->all_finite(c, at_.kernels.rows * at_.kernels.panel);
        });
        if (!finite) multiply_in_float64(job, right, tile, product);
        for_each_micro_tile(job, tile, product, [&](index_t row, index_t column, const double* c) {
            tile.cross ? add_cross_tile(job, row, column, c) : add_tile(job, row, column, c);
        });
    }

    // A sum of products left the range of float32 (finite inputs above 1e17): the slow and safe way.
    void multiply_in_float64(const Job<T>& job, const Operand<T>& right, const Tile& tile,
                             double* product) const {
        const index_t width = at_.kernels.panel;
        for_each_micro_tile(job, tile, product, [&](index_t row, index_t column, double* c) {
            const T* a = at_.element(job, job.x.packed, row, 0);
            const T* b = at_.element(job, right.packed, column, 0);
            std::fill_n(c, at_.kernels.rows * width, 0.0);
            for (index_t k = 0; k < job.chunk_rows(); ++k) {
                const double weight = job.weights.empty() ? 1.0 : job.weights[job.begin + k];
                for (index_t r = 0; r < at_.kernels.rows; ++r) {
                    const double left = weight * static_cast<double>(a[k * width + r]);
                    for (index_t j = 0; j < width; ++j)
                        c[r * width + j] += left * static_cast<double>(b[k * width + j]);
                }
            }
        });
    }

    void add_tile(Job<T>& job, index_t row, index_t column, const double* c) {
        Moments& m = *job.moments;
        const std::vector<double>& sums = job.x.sums;
        const std::vector<double>& delta = job.x.delta;
        const double weight = job.weight;
        for (index_t i = row; i < std::min(row + at_.kernels.rows, m.x.dim); ++i, c += at_.kernels.panel) {
            double* out = m.second.data() + i * (i + 1) / 2 + column;
            const index_t n = std::min(at_.kernels.panel, i - column + 1);
            at_.options.kernels->add(c, std::max<index_t>(n, 0), out);
            if (job.x.moved) {
                const double sum_i = sums[i] + weight * delta[i];
                for (index_t j = 0; j < n; ++j)
                    out[j] += delta[i] * sums[column + j] + sum_i * delta[column + j];
            }
            if (i - column < at_.kernels.panel && i >= column)
                add_diagonal(m.x, job, job.x, i, c[i - column]);
        }
    }

    void add_diagonal(Side& side, const Job<T>& job, const Operand<T>& operand, index_t i,
                      double square) const {
        // The worst case of a run of k sums, and 3 u for the product, the shift and the weight (Higham 2002,
        // section 3.1). Not sqrt(k) u: sums of equal terms are rounded the same way every time.
        const double k = static_cast<double>(std::min(at_.options.run, job.chunk_rows()));
        const double delta = operand.delta[i];
        const double underflow =
            static_cast<double>(job.chunk_rows()) * static_cast<double>(std::numeric_limits<T>::min());
        side.error[i] += (k + 3) * unit * square + underflow;
        side.square[i] += square + delta * (2 * operand.sums[i] + job.weight * delta);
    }

    void add_cross_tile(Job<T>& job, index_t row, index_t column, const double* c) {
        Moments& m = *job.moments;
        const Operand<T>&x = job.x, &y = job.cross;
        const double weight = job.weight;
        for (index_t i = row; i < std::min(row + at_.kernels.rows, m.x.dim); ++i, c += at_.kernels.panel) {
            double* out = m.cross_second.data() + i * m.cross.dim + column;
            const double sum_i = x.sums[i] + weight * x.delta[i];
            for (index_t j = 0; j < std::min(at_.kernels.panel, m.cross.dim - column); ++j)
                out[j] += c[j] + (x.delta[i] * y.sums[column + j] + sum_i * y.delta[column + j]);
        }
    }

    // The cross side has no S2 of its own: its diagonal is needed for the error bound and the next shift.
    void add_squares(Job<T>& job) {
        for (index_t j = 0; j < job.cross.view.columns; ++j) {
            const T* column = at_.element(job, job.cross.packed, j, 0);
            double square = 0;
            for (index_t k = 0; k < job.chunk_rows(); ++k) {
                const double value = column[k * at_.kernels.panel];
                square += (job.weights.empty() ? 1.0 : job.weights[job.begin + k]) * value * value;
            }
            add_diagonal(*job.cross.side, job, job.cross, j, square);
        }
    }

    const Context<T>& at_;
    index_t block_panels_;
    std::vector<std::vector<double>> products_;  // one per thread
};

}  // namespace repgeom

// Rows as the measures see them, and their exact evaluation. Private to neighbors.cpp and its parts.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <numeric>
#include <vector>

#include "neighbors.hpp"
#include "neighbors_pairs.hpp"

namespace repgeom {

inline index_t divide_up(index_t a, index_t b) { return (a + b - 1) / b; }

struct Points {
    MatrixView view;
    std::vector<double> factors;  // 1 / norm of every row for cosine; else empty

    index_t rows() const { return view.rows; }
    index_t columns() const { return view.columns; }
    double factor(index_t row) const { return factors.empty() ? 1.0 : factors[row]; }
    RowSource source() const {
        return {view.data, view.row_stride, view.columns, factors.empty() ? nullptr : factors.data()};
    }
};

inline std::size_t dtype_bytes(Dtype dtype) {
    return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

inline const void* row_address(const MatrixView& view, index_t row) {
    return static_cast<const std::byte*>(view.data) +
           static_cast<std::size_t>(row * view.row_stride) * dtype_bytes(view.dtype);
}

// What all parts of a call share.
struct Problem {
    Points reference;
    Points queries;  // of a self-join: empty
    bool self_join = true;
    bool exclude_self = true;
    bool precomputed = false;  // the reference holds the values themselves, one column per reference row
    Measure measure = Measure::squared;
    double exponent = 2;
    const KernelTable* kernels = nullptr;
    const PairKernels* pairs = nullptr;

    const Points& rows() const { return self_join || precomputed ? reference : queries; }
    index_t n_reference() const { return precomputed ? reference.columns() : reference.rows(); }
};

template <typename Work>
void for_rows(ThreadTeam& team, index_t rows, const Work& work) {
    constexpr index_t rows_per_task = 64;
    team.run(divide_up(rows, rows_per_task), [&](index_t task, int thread) {
        for (index_t row = task * rows_per_task; row < std::min((task + 1) * rows_per_task, rows); ++row)
            work(row, thread);
    });
}

// Exact values of pairs; one per thread.
class Evaluator {
  public:
    explicit Evaluator(const Problem& problem)
        : problem_(problem), row_(static_cast<std::size_t>(divide_up(problem.reference.columns(), 8) * 8)) {}

    void set_row(const Points& points, index_t row) {
        const int dtype = static_cast<int>(points.view.dtype);
        problem_.pairs->widen[dtype](row_address(points.view, row), points.columns(), points.factor(row),
                                     row_.data());
    }

    const double* row() const { return row_.data(); }

    // Values of the row that was set and rows of the reference.
    void evaluate(const index_t* rows, index_t n, double* values) const {
        const Points& reference = problem_.reference;
        if (problem_.precomputed) {
            for (index_t m = 0; m < n; ++m) values[m] = row_[rows[m]];
            return;
        }
        problem_.pairs->evaluate[static_cast<int>(problem_.measure)][static_cast<int>(reference.view.dtype)](
            row_.data(), reference.source(), rows, n, problem_.exponent, values);
    }

  private:
    const Problem& problem_;
    std::vector<double> row_;
};

// Tells the caller how far the work is, now and then, and lets it stop the work by an exception.
class Progress {
  public:
    Progress(const NeighborOptions& options, index_t total) : tell_(options.progress), total_(total) {}

    void add(int thread) {
        const index_t done = done_.fetch_add(1) + 1;
        if (thread != 0 || !tell_) return;
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < std::chrono::milliseconds(50)) return;
        last_ = now;
        tell_(static_cast<double>(done) / static_cast<double>(total_));
    }

    void finish() const {
        if (tell_) tell_(1.0);
    }

  private:
    const std::function<void(double)>& tell_;
    index_t total_;
    std::atomic<index_t> done_{0};
    std::chrono::steady_clock::time_point last_{};
};

}  // namespace repgeom

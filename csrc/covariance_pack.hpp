// The first part of an update: the shift of every column, and the rows as shifted panels with their column
// sums.
#pragma once

#include <array>
#include <cmath>
#include <numeric>

#include "covariance_job.hpp"

namespace repgeom {

template <typename T>
class Packer {
  public:
    explicit Packer(const Context<T>& context) : at_(context) {}

    void prepare(Job<T>& job) {
        prepare(job, job.x);
        if (job.has_cross()) prepare(job, job.cross);
    }

    void pack(std::span<Job<T>> jobs) {
        pack_all(jobs);
        for (Job<T>& job : jobs)
            if (!finite_sums(job)) {
                drop_nonfinite_rows(job);
                pack_all({&job, 1});
            }
        for (Job<T>& job : jobs)
            job.weight = job.weights.empty() ? static_cast<double>(job.chunk_rows())
                                             : std::accumulate(job.weights.begin() + job.begin,
                                                               job.weights.begin() + job.end, 0.0);
    }

  private:
    void prepare(const Job<T>& job, Operand<T>& operand) {
        operand.panels = (operand.view.columns + at_.kernels.panel - 1) / at_.kernels.panel;
        operand.shift.assign(static_cast<std::size_t>(at_.padded(operand)), T{});
        operand.delta.assign(static_cast<std::size_t>(operand.view.columns), 0.0);
        choose_shift(job, operand);
        for (index_t j = 0; j < operand.view.columns; ++j) {
            const double shift = operand.shift[j];
            if (job.moments->count == 0) operand.side->shift[j] = shift;
            operand.delta[j] = shift - operand.side->shift[j];
            operand.moved = operand.moved || operand.delta[j] != 0;
            operand.shifted = operand.shifted || shift != 0;
        }
    }

    // Per column: the common shift if it is within 4 spreads of the median of the sampled rows, else the
    // median.
    void choose_shift(const Job<T>& job, Operand<T>& operand) {
        const std::vector<index_t> rows = scattered(job.rows);
        const index_t sampled = static_cast<index_t>(rows.size());
        const std::vector<T> zero(static_cast<std::size_t>(at_.padded(operand)));
        std::vector<T> panels(static_cast<std::size_t>(sampled * at_.padded(operand)));
        std::vector<double> sums(static_cast<std::size_t>(at_.padded(operand)));
        pack_function(at_.kernels, operand.view.dtype)(
            pack_source(operand, rows.data(), nullptr, sampled, sampled * at_.kernels.panel), zero.data(),
            panels.data(), sums.data());
        for (index_t j = 0; j < operand.view.columns; ++j) {
            const T* column =
                panels.data() + j / at_.kernels.panel * sampled * at_.kernels.panel + j % at_.kernels.panel;
            operand.shift[j] = static_cast<T>(shift_of_column(column, sampled, operand.side->shift[j]));
        }
    }

    double shift_of_column(const T* column, index_t n, double common) const {
        std::array<T, sampled_rows> values;
        index_t used = 0;
        double sum = 0, square = 0;
        for (index_t i = 0; i < n; ++i) {
            const T value = column[i * at_.kernels.panel];
            if (!std::isfinite(value)) continue;
            values[used++] = value;
            const double distance = static_cast<double>(value) - common;
            sum += distance;
            square += distance * distance;
        }
        if (2 * sum * sum <= used * square)
            return common;  // mean within one standard deviation: the usual case
        const auto begin = values.begin(), middle = begin + used / 2, end = begin + used;
        std::nth_element(begin, middle, end);
        const double median = *middle;
        std::transform(begin, end, begin, [&](T v) { return std::abs(v - static_cast<T>(median)); });
        std::nth_element(begin, middle, end);
        const double spread = 1.4826 * static_cast<double>(*middle);
        return std::abs(median - common) <= 4 * spread ? common : rounded_shift(median, spread);
    }

    PackSource pack_source(const Operand<T>& operand, const index_t* rows, const double* weights,
                           index_t n_rows, index_t panel_stride) const {
        return {operand.view.data, operand.view.row_stride, rows, weights, n_rows, operand.view.columns,
                panel_stride};
    }

    void pack_all(std::span<Job<T>> jobs) {
        struct Task {
            Job<T>* job;
            Operand<T>* operand;
            index_t run;
        };
        std::vector<Task> tasks;
        for (Job<T>& job : jobs)
            for (Operand<T>* operand : {&job.x, &job.cross})
                for (index_t run = 0; operand->side != nullptr && run * at_.options.run < job.chunk_rows();
                     ++run)
                    tasks.push_back({&job, operand, run});
        at_.team.run(static_cast<index_t>(tasks.size()), [&](index_t task, int) {
            pack_run(*tasks[task].job, *tasks[task].operand, tasks[task].run);
        });
        for (Job<T>& job : jobs) {
            total_sums(job, job.x);
            if (job.has_cross()) total_sums(job, job.cross);
        }
    }

    void pack_run(Job<T>& job, Operand<T>& operand, index_t run) {
        const index_t first = run * at_.options.run;
        const index_t last = std::min(first + at_.options.run, job.chunk_rows());
        double* sums = operand.sums.data() + run * at_.padded(operand);
        std::fill_n(sums, at_.padded(operand), 0.0);
        const index_t n_rows = last - first, at = first * at_.kernels.panel;
        const double* weights = job.weights.empty() ? nullptr : job.weights.data() + job.begin + first;
        pack_function(at_.kernels, operand.view.dtype)(
            pack_source(operand, job.rows.data() + job.begin + first, weights, n_rows, job.panel_stride),
            operand.shift.data(), operand.packed + at, sums);
        for (index_t p = 0; operand.scaled != operand.packed && p < operand.panels; ++p) {
            const index_t panel_at = at + p * job.panel_stride;
            at_.kernels.scale_rows(operand.packed + panel_at, weights, n_rows, operand.scaled + panel_at);
        }
    }

    void total_sums(const Job<T>& job, Operand<T>& operand) {
        const index_t width = at_.padded(operand);
        if (job.chunk_rows() == 0) std::fill(operand.sums.begin(), operand.sums.end(), 0.0);
        for (index_t run = 1; run * at_.options.run < job.chunk_rows(); ++run)
            for (index_t j = 0; j < width; ++j) operand.sums[j] += operand.sums[run * width + j];
    }

    bool finite_sums(const Job<T>& job) const {
        const auto finite = [&](const Operand<T>& operand) {
            return std::all_of(operand.sums.begin(), operand.sums.begin() + at_.padded(operand),
                               [](double sum) { return std::isfinite(sum); });
        };
        return finite(job.x) && (!job.has_cross() || finite(job.cross));
    }

    void drop_nonfinite_rows(Job<T>& job) {
        index_t kept = job.begin;
        for (index_t at = job.begin; at < static_cast<index_t>(job.rows.size()); ++at) {
            if (at < job.end && !finite_row(job, job.rows[at])) continue;
            job.rows[kept] = job.rows[at];
            if (!job.weights.empty()) job.weights[kept] = job.weights[at];
            ++kept;
        }
        const index_t dropped = static_cast<index_t>(job.rows.size()) - kept;
        job.nonfinite += dropped;
        job.end -= dropped;
        job.rows.resize(static_cast<std::size_t>(kept));
        if (!job.weights.empty()) job.weights.resize(static_cast<std::size_t>(kept));
    }

    bool finite_row(const Job<T>& job, index_t row) const {
        return finite_row(job.x, row) && (!job.has_cross() || finite_row(job.cross, row));
    }

    bool finite_row(const Operand<T>& operand, index_t row) const {
        const std::vector<T> zero(static_cast<std::size_t>(at_.padded(operand)));
        std::vector<T> panels(static_cast<std::size_t>(at_.padded(operand)));
        std::vector<double> sums(static_cast<std::size_t>(at_.padded(operand)));
        pack_function(at_.kernels, operand.view.dtype)(
            pack_source(operand, &row, nullptr, 1, at_.kernels.panel), zero.data(), panels.data(),
            sums.data());
        return std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); });
    }

    const Context<T>& at_;
};

}  // namespace repgeom

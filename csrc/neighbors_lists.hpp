// The candidates of every row, filtered by bounds and settled by exact values.
#pragma once

#include <utility>

#include "neighbors_panels.hpp"

namespace repgeom {

// Collects, for the rows of one set of panels, the k nearest columns of another (or of the same). A row
// belongs to one thread at a time.
template <typename T>
class Lists {
  public:
    Lists(const Problem& problem, const Frame& frame, Panels<T>& rows, const Panels<T>& columns, index_t k,
          int threads, double* distances, index_t* indices)
        : problem_(problem),
          frame_(frame),
          rows_(rows),
          columns_(columns),
          k_(k),
          capacity_(capacity(problem, k)),
          slack_(4 * static_cast<double>(std::numeric_limits<T>::epsilon())),
          distances_(distances),
          indices_(indices) {
        const auto n = static_cast<std::size_t>(rows.positions());
        candidates_.reset(rows.positions() * capacity_);
        heads_.assign(n, {no_limit<T>, 0, 0});
        settled_.assign(n, 0);
        evaluated_.assign(n, 0);
        for (int thread = 0; thread < threads; ++thread) scratch_.emplace_back(problem, capacity_ + k + 1);
    }

    static index_t capacity(const Problem& problem, index_t k) {
        return std::min(k + std::max<index_t>(k, 16), problem.n_reference() + 16);
    }

    static std::size_t bytes_per_row(const Problem& problem, index_t k) {
        return static_cast<std::size_t>(capacity(problem, k)) * sizeof(Candidate<T>) + sizeof(Head) + 5;
    }

    // A pair whose key is at least `key`. Written down in any case: a branch could not be predicted.
    void offer(index_t row, T key, index_t column, int thread) {
        Head& head = heads_[row];
        candidates_.data()[row * capacity_ + head.count] = {key, static_cast<std::int32_t>(column)};
        const bool passes = key <= head.limit;
        head.count += passes;
        head.survivors += passes;
        if (head.count == capacity_) [[unlikely]]
            shorten(row, thread);
    }

    // The final list of a row, sorted, as values of pairs.
    void finish(index_t row, int thread) {
        if (settled_[row] == 0 && heads_[row].count > k_) filter(row, scratch_[thread]);
        settle(row, scratch_[thread]);
    }

    void add_statistics(Certificate& certificate) const {
        for (std::size_t row = 0; row < heads_.size(); ++row) {
            certificate.survivors += heads_[row].survivors;
            certificate.evaluated += evaluated_[row];
            certificate.survivors_max = std::max<index_t>(certificate.survivors_max, heads_[row].survivors);
            certificate.evaluated_max = std::max<index_t>(certificate.evaluated_max, evaluated_[row]);
        }
    }

    index_t settled_rows() const {
        return static_cast<index_t>(std::count(settled_.begin(), settled_.end(), std::uint8_t{1}));
    }

  private:
    struct Head {
        T limit;  // keys above it are not among the k nearest
        std::int32_t count;
        std::uint32_t survivors;
    };

    struct Scratch {
        Scratch(const Problem& problem, index_t size)
            : evaluator(problem),
              upper(static_cast<std::size_t>(size)),
              rows(static_cast<std::size_t>(size)),
              values(static_cast<std::size_t>(size)) {}

        Evaluator evaluator;
        std::vector<T> upper;
        std::vector<index_t> rows;
        std::vector<double> values;
        std::vector<std::pair<double, index_t>> list;
    };

    void shorten(index_t row, int thread) {
        Scratch& scratch = scratch_[thread];
        if (settled_[row] == 0) {
            filter(row, scratch);
            if (heads_[row].count <= capacity_ - std::max<index_t>(8, (capacity_ - k_) / 3)) return;
        }
        settle(row, scratch);
    }

    // Lowers the limit to the k-th upper bound and drops what lies above.
    void filter(index_t row, Scratch& scratch) {
        Candidate<T>* candidates = candidates_.data() + row * capacity_;
        Head& head = heads_[row];
        const PairKernels& pairs = *problem_.pairs;
        T* uppers = scratch.upper.data();
        index_t kept;
        if constexpr (std::is_same_v<T, float>) {
            set_limit(row,
                      static_cast<double>(frame_.n_centres == 1
                                              ? pairs.bound32(candidates, head.count, columns_.gap.data(),
                                                              rows_.gap[row], k_, uppers)
                                              : pairs.select32(upper_bounds(row, uppers), head.count, k_)));
            kept = pairs.keep32(candidates, head.count, head.limit);
        } else {
            set_limit(row, frame_.n_centres == 1 ? pairs.bound64(candidates, head.count, columns_.gap.data(),
                                                                 rows_.gap[row], k_, uppers)
                                                 : pairs.select64(upper_bounds(row, uppers), head.count, k_));
            kept = pairs.keep64(candidates, head.count, head.limit);
        }
        head.count = static_cast<std::int32_t>(kept);
    }

    const T* upper_bounds(index_t row, T* uppers) const {
        const Candidate<T>* candidates = candidates_.data() + row * capacity_;
        const index_t own = rows_.centre_of(row);
        for (index_t e = 0; e < heads_[row].count; ++e) {
            const index_t column = candidates[e].column;
            uppers[e] = candidates[e].key + (columns_.gap[columns_.at(own, column)] +
                                             rows_.gap[rows_.at(columns_.centre_of(column), row)]);
        }
        return uppers;
    }

    // Merges the candidates, now with exact values, into the row's exact list.
    void settle(index_t row, Scratch& scratch) {
        const index_t origin = rows_.order[row];
        double* distances = distances_ + origin * k_;
        index_t* indices = indices_ + origin * k_;
        scratch.list.clear();
        if (settled_[row] != 0)
            for (index_t e = 0; e < k_ && indices[e] >= 0; ++e)
                scratch.list.emplace_back(distances[e], indices[e]);
        evaluate(row, origin, scratch);
        keep_smallest(scratch.list);
        for (index_t e = 0; e < k_; ++e) {
            const bool there = e < static_cast<index_t>(scratch.list.size());
            distances[e] = there ? scratch.list[e].first : std::numeric_limits<double>::infinity();
            indices[e] = there ? scratch.list[e].second : -1;
        }
        heads_[row].count = 0;
        settled_[row] = 1;
        if (static_cast<index_t>(scratch.list.size()) == k_)
            set_limit(row, scratch.list.back().first * frame_.to_key);
    }

    void evaluate(index_t row, index_t origin, Scratch& scratch) {
        const Candidate<T>* candidates = candidates_.data() + row * capacity_;
        index_t n = heads_[row].count;
        for (index_t e = 0; e < n; ++e) scratch.rows[e] = columns_.order[candidates[e].column];
        if (problem_.self_join && !problem_.exclude_self && settled_[row] == 0) scratch.rows[n++] = origin;
        scratch.evaluator.set_row(problem_.rows(), origin);
        scratch.evaluator.evaluate(scratch.rows.data(), n, scratch.values.data());
        for (index_t e = 0; e < n; ++e) scratch.list.emplace_back(scratch.values[e], scratch.rows[e]);
        evaluated_[row] += static_cast<std::uint32_t>(n);
    }

    void keep_smallest(std::vector<std::pair<double, index_t>>& list) const {
        if (static_cast<index_t>(list.size()) > k_) {
            std::nth_element(list.begin(), list.begin() + k_ - 1, list.end());
            list.resize(static_cast<std::size_t>(k_));
        }
        std::sort(list.begin(), list.end());
    }

    void set_limit(index_t row, double key) {
        const double raised = key + std::abs(key) * (slack_ + frame_.relative) + underflow<T>;
        const T key_limit = static_cast<T>(raised * (raised > 0 ? 1 + slack_ : 1 - slack_));
        heads_[row].limit = key_limit;
        for (index_t c = 0; c < frame_.n_centres; ++c) {
            const index_t at = rows_.at(c, row);
            const double limit = static_cast<double>(key_limit) - static_cast<double>(rows_.level[at]);
            rows_.limit[at] = static_cast<T>(limit + std::abs(limit) * slack_ + underflow<T>);
        }
    }

    const Problem& problem_;
    const Frame& frame_;
    Panels<T>& rows_;
    const Panels<T>& columns_;
    index_t k_;
    index_t capacity_;
    double slack_;
    double* distances_;
    index_t* indices_;
    AlignedArray<Candidate<T>> candidates_;
    std::vector<Head> heads_;
    std::vector<std::uint8_t> settled_;  // the row's list is exact so far, and its candidates come on top
    std::vector<std::uint32_t> evaluated_;
    std::vector<Scratch> scratch_;
};

}  // namespace repgeom

// Counts, for every row, how many others are nearer than each of some given points.
#pragma once

#include "neighbors_panels.hpp"

namespace repgeom {

template <typename T>
class Ranks {
  public:
    // points: [rows, m] of the problem; ranks the same. The limits of the rows become their largest
    // threshold.
    Ranks(const Problem& problem, const Frame& frame, Panels<T>& rows, const Panels<T>& columns,
          const index_t* points, index_t m, ThreadTeam& team)
        : problem_(problem), frame_(frame), rows_(rows), columns_(columns), m_(m) {
        const auto size = static_cast<std::size_t>(rows.positions() * m);
        thresholds_.resize(size);
        keys_.assign(size, 0.0);
        counts_.assign(size, 0);
        limit_.assign(static_cast<std::size_t>(rows.positions()), -never<T>);
        for (int thread = 0; thread < team.size(); ++thread) evaluators_.emplace_back(problem);
        survivors_.assign(static_cast<std::size_t>(rows.positions()), 0);
        evaluated_ = survivors_;
        for_rows(team, rows.positions(), [&](index_t row, int thread) {
            if (rows.order[row] >= 0) set_thresholds(row, points, evaluators_[thread]);
        });
    }

    static std::size_t bytes_per_row(index_t m) {
        return static_cast<std::size_t>(m) * (sizeof(Threshold) + 12) + sizeof(T) + 8;
    }

    // A pair whose key is at least `key`.
    void offer(index_t row, T key, index_t column, int thread) {
        if (!(key <= limit_[row])) return;
        ++survivors_[row];
        const double* keys = keys_.data() + row * m_;
        const double low = static_cast<double>(key), margin = std::abs(low) * relative() + underflow<T>;
        const index_t first = count_below(keys, m_, low - margin);
        if (first == m_) return;
        const double gap = static_cast<double>(columns_.gap[columns_.at(rows_.centre_of(row), column)]) +
                           static_cast<double>(rows_.gap[rows_.at(columns_.centre_of(column), row)]);
        const bool certain = keys[first] > low + gap * 1.0001 + margin;
        const index_t bin = certain ? first : exact_bin(row, column, thread);
        if (bin < m_) ++counts_[row * m_ + bin];
    }

    void write(index_t* ranks) const {
        for (index_t row = 0; row < rows_.positions(); ++row) {
            if (rows_.order[row] < 0) continue;
            index_t nearer = 0;
            for (index_t q = 0; q < m_; ++q) {
                nearer += counts_[row * m_ + q];
                ranks[rows_.order[row] * m_ + thresholds_[row * m_ + q].column] = 1 + nearer;
            }
        }
    }

    void add_statistics(Certificate& certificate) const {
        for (std::size_t row = 0; row < survivors_.size(); ++row) {
            certificate.survivors += survivors_[row];
            certificate.evaluated += evaluated_[row];
            certificate.survivors_max = std::max<index_t>(certificate.survivors_max, survivors_[row]);
            certificate.evaluated_max = std::max<index_t>(certificate.evaluated_max, evaluated_[row]);
        }
    }

  private:
    struct Threshold {
        double value;
        index_t point;
        index_t column;  // of points
        bool operator<(const Threshold& other) const {
            return value != other.value ? value < other.value : point < other.point;
        }
    };

    // Of n ascending keys; without branches, which nothing could predict.
    static index_t count_below(const double* keys, index_t n, double value) {
        const double* at = keys;
        for (; n > 1; n -= n / 2) at += at[n / 2 - 1] < value ? n / 2 : 0;
        return at - keys + (*at < value ? 1 : 0);
    }

    double relative() const {
        return frame_.relative + 8 * static_cast<double>(std::numeric_limits<T>::epsilon());
    }

    void set_thresholds(index_t row, const index_t* points, Evaluator& evaluator) {
        const index_t origin = rows_.order[row];
        Threshold* thresholds = thresholds_.data() + row * m_;
        std::vector<double> values(static_cast<std::size_t>(m_));
        evaluator.set_row(problem_.rows(), origin);
        evaluator.evaluate(points + origin * m_, m_, values.data());
        for (index_t q = 0; q < m_; ++q) thresholds[q] = {values[q], points[origin * m_ + q], q};
        std::sort(thresholds, thresholds + m_);
        for (index_t q = 0; q < m_; ++q) keys_[row * m_ + q] = thresholds[q].value * frame_.to_key;
        const double last = keys_[(row + 1) * m_ - 1];
        const double limit = last + std::abs(last) * relative() + underflow<T>;
        limit_[row] = static_cast<T>(limit);
        for (index_t c = 0; c < frame_.n_centres; ++c) {
            const double reach = limit - static_cast<double>(rows_.level[rows_.at(c, row)]);
            rows_.limit[rows_.at(c, row)] =
                static_cast<T>(reach + std::abs(reach) * relative() + underflow<T>);
        }
    }

    index_t exact_bin(index_t row, index_t column, int thread) {
        const index_t point = columns_.order[column];
        double value;
        evaluators_[thread].set_row(problem_.rows(), rows_.order[row]);
        evaluators_[thread].evaluate(&point, 1, &value);
        ++evaluated_[row];
        const Threshold* thresholds = thresholds_.data() + row * m_;
        return std::upper_bound(thresholds, thresholds + m_, Threshold{value, point, 0}) - thresholds;
    }

    const Problem& problem_;
    const Frame& frame_;
    Panels<T>& rows_;
    const Panels<T>& columns_;
    index_t m_;
    std::vector<Threshold> thresholds_;  // of every row, ascending
    std::vector<double> keys_;           // theirs
    std::vector<std::int32_t> counts_;   // pairs nearer than threshold q but not than q - 1
    std::vector<T> limit_;
    std::vector<std::uint32_t> survivors_;
    std::vector<std::uint32_t> evaluated_;
    std::vector<Evaluator> evaluators_;
};

}  // namespace repgeom

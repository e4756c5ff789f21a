// The walk over all pairs for measures that have no fast products: every value is evaluated exactly.
#pragma once

#include "neighbors_join.hpp"

namespace repgeom {

// Rows without operands: their keys are the exact values.
inline void make_plain(const Frame& frame, const std::vector<std::int32_t>& rows, Panels<double>& panels) {
    panels.width = 1;
    panels.count = static_cast<index_t>(rows.size());
    panels.order = rows;
    panels.centre.assign(rows.size(), 0);
    panels.level.assign(rows.size() * static_cast<std::size_t>(frame.n_centres), 0.0);
    panels.gap = panels.level;
    panels.limit = panels.level;
}

template <typename Sink>
class DirectJoin {
  public:
    DirectJoin(const Problem& problem, const Panels<double>& rows, const Panels<double>& columns,
               ThreadTeam& team, Sink& sink)
        : problem_(problem),
          rows_(rows),
          columns_(columns),
          team_(team),
          sink_(sink),
          symmetric_(&rows == &columns && !problem.precomputed) {
        for (int thread = 0; thread < team.size(); ++thread) scratch_.emplace_back(problem);
    }

    void run(const NeighborOptions& options) {
        const index_t row_blocks = divide_up(rows_.count, block_rows);
        const index_t column_blocks = divide_up(columns_.count, block_rows);
        if (symmetric_) {
            Tournament tournament(row_blocks);
            Progress progress(options, tournament.tasks());
            team_.run(tournament.tasks(), [&](index_t task, int thread) {
                tournament.play(task, [&](index_t i, index_t j) {
                    block(i, j, thread);
                    progress.add(thread);
                });
            });
            progress.finish();
            return;
        }
        Progress progress(options, row_blocks * column_blocks);
        team_.run(row_blocks, [&](index_t i, int thread) {
            for (index_t j = 0; j < column_blocks; ++j) {
                block(i, j, thread);
                progress.add(thread);
            }
        });
        progress.finish();
    }

  private:
    static constexpr index_t block_rows = 64;

    struct Scratch {
        explicit Scratch(const Problem& problem) : evaluator(problem) {}
        Evaluator evaluator;
        index_t rows[block_rows];
        double values[block_rows];
    };

    void block(index_t i, index_t j, int thread) {
        Scratch& scratch = scratch_[thread];
        const index_t j_end = std::min((j + 1) * block_rows, columns_.count);
        for (index_t row = i * block_rows; row < std::min((i + 1) * block_rows, rows_.count); ++row) {
            const index_t begin = symmetric_ && i == j ? row + 1 : j * block_rows;
            for (index_t column = begin; column < j_end; ++column)
                scratch.rows[column - begin] = columns_.order[column];
            scratch.evaluator.set_row(problem_.rows(), rows_.order[row]);
            scratch.evaluator.evaluate(scratch.rows, j_end - begin, scratch.values);
            for (index_t column = begin; column < j_end; ++column) {
                const double value = scratch.values[column - begin];
                if (!symmetric_ && problem_.self_join && columns_.order[column] == rows_.order[row]) continue;
                sink_.offer(row, value, column, thread);
                if (symmetric_) sink_.offer(column, value, row, thread);
            }
        }
    }

    const Problem& problem_;
    const Panels<double>& rows_;
    const Panels<double>& columns_;
    ThreadTeam& team_;
    Sink& sink_;
    bool symmetric_;
    std::vector<Scratch> scratch_;
};

}  // namespace repgeom

// The walk over all pairs of rows in blocks, and the products of a block.
#pragma once

#include <thread>

#include "neighbors_panels.hpp"

namespace repgeom {

// All pairs of `blocks` blocks, as rounds in which no block appears twice: first every block with itself,
// then the rounds of a tournament (circle method). A pair waits until both blocks are done with earlier
// rounds, so that what happens to a block happens in the same order for any number of threads.
class Tournament {
  public:
    explicit Tournament(index_t blocks)
        : blocks_(blocks), seats_(blocks + blocks % 2), done_(static_cast<std::size_t>(seats_)) {}

    index_t tasks() const { return blocks_ + seats_ / 2 * (seats_ - 1); }

    // Calls work(i, j) for the pair of a task; a pair with the empty seat has no work.
    template <typename Work>
    void play(index_t task, const Work& work) {
        const auto [i, j, round] = pair_of(task);
        if (!wait(i, round) || !wait(j, round)) return;
        try {
            if (j < blocks_) work(i, j);
        } catch (...) {
            stopped_.store(true);
            throw;
        }
        done_[i].store(round + 1);
        if (i != j && j < blocks_) done_[j].store(round + 1);
    }

  private:
    struct Pair {
        index_t i, j;
        std::int32_t round;
    };

    Pair pair_of(index_t task) const {
        if (task < blocks_) return {task, task, 0};
        const index_t half = seats_ / 2, ring = seats_ - 1;
        const index_t round = (task - blocks_) / half, slot = (task - blocks_) % half;
        const index_t a = slot == 0 ? ring : (round + slot) % ring, b = (round - slot + ring) % ring;
        return {std::min(a, b), std::max(a, b), static_cast<std::int32_t>(round + 1)};
    }

    bool wait(index_t block, std::int32_t round) const {
        if (block >= blocks_) return true;
        while (done_[block].load() != round) {
            if (stopped_.load()) return false;
            std::this_thread::yield();
        }
        return true;
    }

    index_t blocks_;
    index_t seats_;
    std::vector<std::atomic<std::int32_t>> done_;
    std::atomic<bool> stopped_{false};
};

// Offers every pair of rows of two sets of panels (or of one, with itself) to a sink that may want it.
template <typename T, typename Sink>
class Join {
  public:
    Join(const Problem& problem, const Frame& frame, const Panels<T>& rows, const Panels<T>& columns,
         ThreadTeam& team, Sink& sink)
        : problem_(problem),
          frame_(frame),
          kernels_(tile_kernels_of<T>(*problem.kernels)),
          rows_(rows),
          columns_(columns),
          team_(team),
          sink_(sink),
          deaf_(static_cast<std::size_t>(columns.width), -never<T>),
          symmetric_(&rows == &columns) {
        block_ = block_panels(kernels_, rows.positions(), team.size());
        square_ = std::min(block_, square_panels(kernels_));
        const index_t tile = kernels_.rows * kernels_.panel;
        const index_t sums = frame.runs() > 1 ? square_ * square_ * kernels_.panel * kernels_.panel : 0;
        for (int thread = 0; thread < team.size(); ++thread) {
            scratch_.emplace_back();
            scratch_.back().sums.reset(sums);
            scratch_.back().values.resize(static_cast<std::size_t>(tile));
            scratch_.back().codes.resize(static_cast<std::size_t>(tile));
        }
    }

    // Panels of a square, whose operands stay in the second-level cache.
    static index_t square_panels(const TileKernels<T>& kernels) { return 192 / kernels.panel; }

    // Panels of a block, the work of one task: the more, the less often they come from memory.
    static index_t block_panels(const TileKernels<T>& kernels, index_t positions, int threads) {
        const index_t parts = std::max<index_t>(12, 3 * threads);
        const index_t rows = std::clamp<index_t>(positions / parts, kernels.panel, 768);
        const index_t panels = rows / kernels.panel, square = square_panels(kernels);
        return panels < square ? panels : panels / square * square;
    }

    index_t row_blocks() const { return divide_up(rows_.count, block_); }
    index_t column_blocks() const { return divide_up(columns_.count, block_); }

    void run(const NeighborOptions& options) {
        if (symmetric_) {
            Tournament tournament(row_blocks());
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
        Progress progress(options, row_blocks() * column_blocks());
        team_.run(row_blocks(), [&](index_t i, int thread) {
            for (index_t j = 0; j < column_blocks(); ++j) {
                block(i, j, thread);
                progress.add(thread);
            }
        });
        progress.finish();
    }

  private:
    struct Scratch {
        AlignedArray<double> sums;
        std::vector<T> values;
        std::vector<std::int32_t> codes;
    };

    // Panels of rows and of columns.
    struct Square {
        index_t i, i_end, j, j_end;
    };

    void block(index_t i, index_t j, int thread) {
        const index_t i_end = std::min((i + 1) * block_, rows_.count);
        const index_t j_end = std::min((j + 1) * block_, columns_.count);
        for (index_t jp = j * block_; jp < j_end; jp += square_)
            for (index_t ip = i * block_; ip < i_end; ip += square_)
                if (!symmetric_ || ip <= jp + square_ - 1)
                    square({ip, std::min(ip + square_, i_end), jp, std::min(jp + square_, j_end)}, thread);
    }

    // Calls visit(row, column, number) for the micro-tiles of a square that hold wanted pairs.
    template <typename Visit>
    void for_each_tile(const Square& at, const Visit& visit) const {
        const index_t width = kernels_.panel;
        index_t number = 0;
        for (index_t jp = at.j; jp < at.j_end; ++jp)
            for (index_t ip = at.i; ip < at.i_end; ++ip)
                for (index_t g = 0; g < width; g += kernels_.rows, ++number) {
                    const index_t row = ip * width + g, column = jp * width;
                    const bool below_diagonal = symmetric_ && row >= column + width;
                    if (!below_diagonal && rows_.order[row] >= 0) visit(row, column, number);
                }
    }

    const T* row_element(index_t row, index_t k) const {
        const index_t width = kernels_.panel;
        return rows_.data.data() + row / width * rows_.stride + k * width + row % width;
    }

    const T* column_element(index_t column, index_t k) const {
        return columns_.data.data() + column / kernels_.panel * columns_.stride + k * kernels_.panel;
    }

    void square(const Square& at, int thread) {
        Scratch& scratch = scratch_[thread];
        const index_t tile = kernels_.rows * kernels_.panel, last = (frame_.runs() - 1) * frame_.run;
        for (index_t k = 0; k < last; k += frame_.run) {
            const auto multiply = k == 0 ? kernels_.store : kernels_.accumulate;
            for_each_tile(at, [&](index_t row, index_t column, index_t number) {
                multiply(row_element(row, k), column_element(column, k), frame_.run,
                         scratch.sums.data() + number * tile);
            });
        }
        const auto threshold = frame_.differences ? kernels_.threshold_differences : kernels_.threshold;
        for_each_tile(at, [&](index_t row, index_t column, index_t number) {
            const index_t own = rows_.centre_of(row), other = columns_.centre_of(column);
            const index_t row_at = rows_.at(other, row), column_at = columns_.at(own, column);
            const T* deaf = symmetric_ ? columns_.limit.data() + column_at : deaf_.data();
            const Limits<T> limits{rows_.level.data() + row_at, rows_.limit.data() + row_at,
                                   columns_.level.data() + column_at, deaf};
            const index_t n =
                threshold(row_element(row, last), column_element(column, last), frame_.features - last,
                          last == 0 ? nullptr : scratch.sums.data() + number * tile, limits,
                          scratch.values.data(), scratch.codes.data());
            offer(row, column, limits, n, scratch, thread);
        });
    }

    void offer(index_t row, index_t column, const Limits<T>& limits, index_t n, const Scratch& scratch,
               int thread) {
        for (index_t e = 0; e < n; ++e) {
            const index_t r = scratch.codes[e] >> 16, c = scratch.codes[e] & 0xffff;
            const index_t i = row + r, j = column + c;
            const T key = (limits.column_level[c] - scratch.values[e]) + limits.row_level[r];
            if (symmetric_) {
                if (i >= j) continue;
                sink_.offer(i, key, j, thread);
                sink_.offer(j, key, i, thread);
            } else if (!(problem_.self_join && rows_.order[i] == columns_.order[j])) {
                sink_.offer(i, key, j, thread);
            }
        }
    }

    const Problem& problem_;
    const Frame& frame_;
    const TileKernels<T>& kernels_;
    const Panels<T>& rows_;
    const Panels<T>& columns_;
    ThreadTeam& team_;
    Sink& sink_;
    std::vector<T> deaf_;
    bool symmetric_;
    index_t block_;
    index_t square_;
    std::vector<Scratch> scratch_;
};

}  // namespace repgeom

// Rows packed into panels for the tile kernels, with the levels and gaps that turn products into bounds.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "neighbors_frame.hpp"

namespace repgeom {

template <typename T>
const TileKernels<T>& tile_kernels_of(const KernelTable& table) {
    if constexpr (std::is_same_v<T, float>)
        return table.float32;
    else
        return table.float64;
}

template <typename T>
class AlignedArray {
  public:
    void reset(index_t size) {
        const auto bytes = (static_cast<std::size_t>(size) * sizeof(T) + 63) / 64 * 64;
        memory_.reset(bytes == 0 ? nullptr : std::aligned_alloc(64, bytes));
        if (bytes != 0 && !memory_) throw std::bad_alloc();
    }
    T* data() const { return static_cast<T*>(memory_.get()); }

  private:
    struct Free {
        void operator()(void* memory) const { std::free(memory); }
    };
    std::unique_ptr<void, Free> memory_;
};

// Limits of rows that have none yet, and levels that nothing passes: above all keys, which are below 2^50
// where they are in float32, and their differences are above all keys as well.
template <typename T>
constexpr T no_limit = std::is_same_v<T, float> ? T(0x1p100) : T(0x1p1022);
// What underflow may amount to in a key, for each feature: scaled coordinates are below 2^20.
template <typename T>
constexpr double underflow = std::is_same_v<T, float> ? 0x1p-100 : 0x1p-960;
template <typename T>
constexpr T never = std::is_same_v<T, float> ? T(0x1p120) : T(0x1p1023);

template <typename T>
struct Panels {
    index_t width = 0;                 // of a panel
    index_t count = 0;                 // panels
    index_t stride = 0;                // elements from one panel to the next
    std::vector<std::int32_t> order;   // position -> row, -1 where the panel is filled up
    std::vector<std::int32_t> centre;  // of each panel
    AlignedArray<T> data;
    // Per centre c of the other side, one value per position:
    std::vector<T> level;  // lower bound of the row's level
    std::vector<T> gap;    // upper bound minus that lower bound
    std::vector<T> limit;  // what a product must reach less the other's level; see Limits
    double largest_share = 0;

    index_t positions() const { return count * width; }
    index_t at(index_t c, index_t position) const { return c * positions() + position; }
    index_t centre_of(index_t position) const { return centre[position / width]; }

    static std::size_t bytes_per_row(const Frame& frame) {
        return static_cast<std::size_t>(frame.features + 3 * frame.n_centres + 2) * sizeof(T) + 4;
    }
};

template <typename T>
class PanelPacker {
  public:
    PanelPacker(const Problem& problem, const Frame& frame, ThreadTeam& team)
        : problem_(problem),
          frame_(frame),
          team_(team),
          kernels_(tile_kernels_of<T>(*problem.kernels)),
          shares_(frame) {}

    // rows: those to pack; centres: of each row of the points, or empty. Rows of one centre share panels.
    void pack(const Points& points, const std::vector<std::int32_t>& rows,
              const std::vector<std::uint8_t>& centres, Panels<T>& panels) const {
        arrange(rows, centres, panels);
        panels.stride = (frame_.features + 2) * panels.width;
        panels.data.reset(panels.count * panels.stride);
        const auto size = static_cast<std::size_t>(frame_.n_centres * panels.positions());
        panels.level.assign(size, never<T>);
        panels.gap.assign(size, T{0});
        panels.limit.assign(size, -never<T>);
        std::vector<double> largest(static_cast<std::size_t>(panels.count));
        team_.run(panels.count, [&](index_t p, int) { largest[p] = pack_panel(points, panels, p); });
        panels.largest_share = 0;
        for (const double share : largest) panels.largest_share = std::max(panels.largest_share, share);
    }

  private:
    void arrange(const std::vector<std::int32_t>& rows, const std::vector<std::uint8_t>& centres,
                 Panels<T>& panels) const {
        panels.width = kernels_.panel;
        panels.order.clear();
        panels.centre.clear();
        for (index_t c = 0; c < frame_.n_centres; ++c) {
            for (const std::int32_t row : rows)
                if (centres.empty() || centres[row] == c) panels.order.push_back(row);
            while (static_cast<index_t>(panels.order.size()) % panels.width != 0) panels.order.push_back(-1);
            panels.centre.resize(panels.order.size() / static_cast<std::size_t>(panels.width),
                                 static_cast<std::int32_t>(c));
        }
        panels.count = static_cast<index_t>(panels.centre.size());
    }

    double pack_panel(const Points& points, Panels<T>& panels, index_t p) const {
        const index_t width = panels.width, d = frame_.features, stride = d + 16;
        const std::int32_t* rows = panels.order.data() + p * width;
        std::vector<double> wide(static_cast<std::size_t>(divide_up(d, 8) * 8));
        std::vector<T> residuals(static_cast<std::size_t>(width * stride));
        for (index_t j = 0; j < width && rows[j] >= 0; ++j) {
            problem_.pairs->widen[static_cast<int>(points.view.dtype)](row_address(points.view, rows[j]), d,
                                                                       points.factor(rows[j]), wide.data());
            residual(wide.data(), frame_.centre(panels.centre[p]), residuals.data() + j * stride);
        }
        T* out = panels.data.data() + p * panels.stride;
        transpose(residuals.data(), stride, width, out);
        if (frame_.differences) {
            set_exact_levels(panels, p);
            return 0;
        }
        return set_levels(residuals.data(), stride, out, panels, p);
    }

    void residual(const double* row, const double* centre, T* out) const {
        if constexpr (std::is_same_v<T, float>)
            problem_.pairs->residual32(row, centre, frame_.scale, frame_.features, out);
        else
            problem_.pairs->residual64(row, centre, frame_.scale, frame_.features, out);
    }

    void transpose(const T* rows, index_t stride, index_t width, T* out) const {
        for (index_t k = 0; k < frame_.features; ++k) {
            const T* column = rows + (frame_.order.empty() ? k : frame_.order[k]);
            for (index_t j = 0; j < width; ++j) out[k * width + j] = column[j * stride];
        }
    }

    void set_exact_levels(Panels<T>& panels, index_t p) const {
        for (index_t j = 0; j < panels.width; ++j) {
            const index_t at = p * panels.width + j;
            if (panels.order[at] < 0) continue;
            panels.level[at] = 0;
            panels.limit[at] = no_limit<T>;
        }
    }

    double set_levels(const T* residuals, index_t stride, const T* panel, Panels<T>& panels,
                      index_t p) const {
        std::vector<double> squares(static_cast<std::size_t>(panels.width)), weighted(squares);
        for (index_t k = 0; k < frame_.features; k += frame_.run) {
            const index_t n = std::min(frame_.run, frame_.features - k);
            const T* from = panel + k * panels.width;
            if constexpr (std::is_same_v<T, float>)
                problem_.pairs->norms32(from, panels.width, frame_.weights.data() + k, n, squares.data(),
                                        weighted.data());
            else
                problem_.pairs->norms64(from, panels.width, frame_.weights.data() + k, n, squares.data(),
                                        weighted.data());
        }
        double largest = 0;
        for (index_t j = 0; j < panels.width; ++j) {
            const index_t position = p * panels.width + j;
            if (panels.order[position] < 0) continue;
            for (index_t c = 0; c < frame_.n_centres; ++c) {
                double delta = 0;
                const double level = level_of(residuals + j * stride, squares[j], panels.centre[p], c, delta);
                const double share = shares_.share(squares[j], weighted[j], delta, level) +
                                     underflow<T> * static_cast<double>(frame_.features + 16);
                const T low = static_cast<T>(level - share);
                const index_t at = panels.at(c, position);
                panels.level[at] = low;
                panels.gap[at] = static_cast<T>((level + share - static_cast<double>(low)) * 1.0001);
                panels.limit[at] = no_limit<T>;
                largest = std::max(largest, share);
            }
        }
        return largest;
    }

    double level_of(const T* residual, double square, index_t own, index_t other, double& delta) const {
        if (!frame_.levels) return 0;
        if (own == other) return square / 2;
        const double *from = frame_.centre(own), *to = frame_.centre(other);
        double distance = 0, product = 0;
        for (index_t c = 0; c < frame_.features; ++c) {
            const double difference = frame_.scale * (from[c] - to[c]);
            distance += difference * difference;
            product += difference * static_cast<double>(residual[c]);
        }
        delta = std::sqrt(distance);
        return (square + 2 * product + distance / 2) / 2;
    }

    const Problem& problem_;
    const Frame& frame_;
    ThreadTeam& team_;
    const TileKernels<T>& kernels_;
    Shares shares_;
};

}  // namespace repgeom

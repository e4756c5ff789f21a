// What an update works on: the operands and jobs of one call. Private to covariance_update.cpp and its parts.
#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <vector>

#include "covariance.hpp"
#include "random.hpp"

namespace repgeom {

template <typename T>
const TileKernels<T>& tile_kernels(const KernelTable& table) {
    if constexpr (std::is_same_v<T, float>)
        return table.float32;
    else
        return table.float64;
}

template <typename T>
Pack<T> pack_function(const TileKernels<T>& kernels, Dtype dtype) {
    switch (dtype) {
        case Dtype::float64:
            return kernels.pack_float64;
        case Dtype::float32:
            return kernels.pack_float32;
        case Dtype::float16:
            return kernels.pack_float16;
        case Dtype::bfloat16:
            return kernels.pack_bfloat16;
    }
    return nullptr;
}

// One matrix of a batch (x, or the other side of a cross-covariance) on its way into a Side.
template <typename T>
struct Operand {
    MatrixView view;
    Side* side = nullptr;
    std::vector<T> shift;       // of this call
    std::vector<double> delta;  // shift - side->shift
    bool moved = false;         // any delta is not 0
    bool shifted = false;       // any shift is not 0
    index_t panels = 0;
    T* packed = nullptr;       // panels x chunk rows x panel
    T* scaled = nullptr;       // the same times the weights; equal to packed without weights
    std::vector<double> sums;  // of the chunk; first one set per run, then their total in the first
};

template <typename T>
struct Job {
    Moments* moments = nullptr;
    Operand<T> x;
    Operand<T> cross;
    std::vector<index_t> rows;    // the rows that count
    std::vector<double> weights;  // of those rows; empty: all 1
    index_t nonfinite = 0;
    index_t capacity = 0;      // rows of a chunk at most
    index_t panel_stride = 0;  // elements from one packed panel to the next
    index_t begin = 0;         // the chunk: rows[begin, end)
    index_t end = 0;
    double weight = 0;  // of the chunk

    index_t chunk_rows() const { return end - begin; }
    bool has_cross() const { return cross.side != nullptr; }
};

constexpr index_t sampled_rows = 64;  // looked at before the work starts

// At most sampled_rows of them, one from each of equal stretches but not at equal distances: every 64th row
// of sequences of 64 tokens would be a first token.
inline std::vector<index_t> scattered(const std::vector<index_t>& rows) {
    const auto n = static_cast<index_t>(rows.size());
    if (n <= sampled_rows) return rows;
    std::vector<index_t> chosen;
    for (index_t i = 0; i < sampled_rows; ++i) {
        const index_t begin = i * n / sampled_rows, end = (i + 1) * n / sampled_rows;
        const std::uint64_t bits = random_bits(0, 0, static_cast<std::uint64_t>(i));
        chosen.push_back(rows[begin + static_cast<index_t>(bits % static_cast<std::uint64_t>(end - begin))]);
    }
    return chosen;
}

// Everything the parts of an update share.
template <typename T>
struct Context {
    const UpdateOptions& options;
    const TileKernels<T>& kernels;
    ThreadTeam& team;

    index_t padded(const Operand<T>& operand) const { return operand.panels * kernels.panel; }

    // Where (row k, column) of an operand is in its panels.
    const T* element(const Job<T>& job, const T* panels, index_t column, index_t k) const {
        return panels + column / kernels.panel * job.panel_stride + k * kernels.panel +
               column % kernels.panel;
    }
};

}  // namespace repgeom

// The update of covariance.hpp, in chunks of rows. Per chunk: (1) copy the rows into panels, shifted and with
// their column sums; (2) multiply tile by tile, each tile of the result owned by one task, so that no result
// depends on the number of threads; (3) add the column sums.
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "covariance.hpp"
#include "random.hpp"

namespace repgeom {

namespace {

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

struct Tile {
    index_t job;
    bool cross;
    index_t i;  // block of rows and of columns
    index_t j;
};

constexpr index_t sampled_rows = 64;  // looked at before the work starts

// At most sampled_rows of them, one from each of equal stretches but not at equal distances: every 64th row
// of sequences of 64 tokens would be a first token.
std::vector<index_t> scattered(const std::vector<index_t>& rows) {
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

template <typename T>
class Updater {
  public:
    Updater(const UpdateOptions& options, ThreadTeam& team, Workspace& workspace)
        : options_(options),
          kernels_(tile_kernels<T>(*options.kernels)),
          team_(team),
          workspace_(workspace) {}

    void update(std::vector<Job<T>>& jobs) {
        for (Job<T>& job : jobs) prepare(job);
        for (std::size_t first = 0, last; first < jobs.size(); first = last) {
            last = first + 1;
            std::size_t bytes = chunk_bytes(jobs[first], whole(jobs[first]));
            while (last < jobs.size()) {
                bytes += chunk_bytes(jobs[last], whole(jobs[last]));
                if (bytes > options_.workspace_bytes) break;
                ++last;
            }
            update_group({jobs.data() + first, last - first});
        }
    }

  private:
    static constexpr double unit = std::numeric_limits<T>::epsilon() / 2;

    index_t padded(const Operand<T>& operand) const { return operand.panels * kernels_.panel; }

    index_t whole(const Job<T>& job) const { return round_up(static_cast<index_t>(job.rows.size())); }

    index_t round_up(index_t rows) const { return (rows + options_.run - 1) / options_.run * options_.run; }

    std::size_t row_bytes(const Job<T>& job) const {
        const index_t x = padded(job.x) * (job.weights.empty() ? 1 : 2);
        return static_cast<std::size_t>(x + padded(job.cross)) * sizeof(T);
    }

    std::size_t chunk_bytes(const Job<T>& job, index_t rows) const {
        return row_bytes(job) * static_cast<std::size_t>(rows);
    }

    // Rows of one chunk: all if they fit, else what fits; for wide layers enough to hide the pass over S2.
    index_t chunk_limit(const Job<T>& job) const {
        const auto fit =
            static_cast<index_t>(options_.workspace_bytes / std::max<std::size_t>(1, row_bytes(job)));
        const index_t rows = std::max({fit, job.moments->x.dim / 2, options_.run});
        return std::min(whole(job), rows / options_.run * options_.run);
    }

    void prepare(Job<T>& job) {
        prepare(job, job.x);
        if (job.has_cross()) prepare(job, job.cross);
    }

    void prepare(const Job<T>& job, Operand<T>& operand) {
        operand.panels = (operand.view.columns + kernels_.panel - 1) / kernels_.panel;
        operand.shift.assign(static_cast<std::size_t>(padded(operand)), T{});
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
        const std::vector<T> zero(static_cast<std::size_t>(padded(operand)));
        std::vector<T> panels(static_cast<std::size_t>(sampled * padded(operand)));
        std::vector<double> sums(static_cast<std::size_t>(padded(operand)));
        pack_function(kernels_, operand.view.dtype)(
            pack_source(operand, rows.data(), nullptr, sampled, sampled * kernels_.panel), zero.data(),
            panels.data(), sums.data());
        for (index_t j = 0; j < operand.view.columns; ++j) {
            const T* column =
                panels.data() + j / kernels_.panel * sampled * kernels_.panel + j % kernels_.panel;
            operand.shift[j] = static_cast<T>(shift_of_column(column, sampled, operand.side->shift[j]));
        }
    }

    double shift_of_column(const T* column, index_t n, double common) const {
        std::array<T, sampled_rows> values;
        index_t used = 0;
        double sum = 0, square = 0;
        for (index_t i = 0; i < n; ++i) {
            const T value = column[i * kernels_.panel];
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

    void update_group(std::span<Job<T>> jobs) {
        reserve(jobs);
        for (;;) {
            bool any = false;
            for (Job<T>& job : jobs) {
                job.begin = job.end;
                job.end = std::min(job.begin + job.capacity, static_cast<index_t>(job.rows.size()));
                any = any || job.chunk_rows() > 0;
            }
            if (!any) return;
            pack(jobs);
            multiply(jobs);
            for (Job<T>& job : jobs) add_sums(job);
        }
    }

    // Everything is allocated before the first sum changes.
    void reserve(std::span<Job<T>> jobs) {
        std::size_t bytes = 0;
        for (Job<T>& job : jobs) {
            job.capacity = chunk_limit(job);
            // Two rows more, or all panels would fall on the same cache sets.
            job.panel_stride = (job.capacity + 2) * kernels_.panel;
            bytes += chunk_bytes(job, job.capacity + 2);
        }
        auto* memory = static_cast<T*>(workspace_.reserve(bytes));
        for (Job<T>& job : jobs) {
            const auto take = [&](Operand<T>& operand) {
                operand.packed = operand.scaled = memory;
                memory += operand.panels * job.panel_stride;
                const index_t runs = job.capacity / options_.run + 1;
                operand.sums.assign(static_cast<std::size_t>(padded(operand) * runs), 0.0);
            };
            take(job.x);
            if (!job.weights.empty()) {
                job.x.scaled = memory;
                memory += job.x.panels * job.panel_stride;
            }
            if (job.has_cross()) take(job.cross);
        }
        block_panels_ = std::max<index_t>(1, (widest(jobs) > 1024 ? 192 : 96) / kernels_.panel);
        const index_t block = block_panels_ * kernels_.panel;
        products_.resize(static_cast<std::size_t>(team_.size()));
        for (auto& product : products_) product.resize(static_cast<std::size_t>(block * block));
    }

    static index_t widest(std::span<const Job<T>> jobs) {
        index_t columns = 0;
        for (const Job<T>& job : jobs) columns = std::max(columns, job.moments->x.dim);
        return columns;
    }

    // ---- (1) panels and column sums

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

    void pack_all(std::span<Job<T>> jobs) {
        struct Task {
            Job<T>* job;
            Operand<T>* operand;
            index_t run;
        };
        std::vector<Task> tasks;
        for (Job<T>& job : jobs)
            for (Operand<T>* operand : {&job.x, &job.cross})
                for (index_t run = 0; operand->side != nullptr && run * options_.run < job.chunk_rows();
                     ++run)
                    tasks.push_back({&job, operand, run});
        team_.run(static_cast<index_t>(tasks.size()), [&](index_t task, int) {
            pack_run(*tasks[task].job, *tasks[task].operand, tasks[task].run);
        });
        for (Job<T>& job : jobs) {
            total_sums(job, job.x);
            if (job.has_cross()) total_sums(job, job.cross);
        }
    }

    void pack_run(Job<T>& job, Operand<T>& operand, index_t run) {
        const index_t first = run * options_.run;
        const index_t last = std::min(first + options_.run, job.chunk_rows());
        double* sums = operand.sums.data() + run * padded(operand);
        std::fill_n(sums, padded(operand), 0.0);
        const index_t n_rows = last - first, at = first * kernels_.panel;
        const double* weights = job.weights.empty() ? nullptr : job.weights.data() + job.begin + first;
        pack_function(kernels_, operand.view.dtype)(
            pack_source(operand, job.rows.data() + job.begin + first, weights, n_rows, job.panel_stride),
            operand.shift.data(), operand.packed + at, sums);
        for (index_t p = 0; operand.scaled != operand.packed && p < operand.panels; ++p) {
            const index_t panel_at = at + p * job.panel_stride;
            kernels_.scale_rows(operand.packed + panel_at, weights, n_rows, operand.scaled + panel_at);
        }
    }

    void total_sums(const Job<T>& job, Operand<T>& operand) {
        const index_t width = padded(operand);
        if (job.chunk_rows() == 0) std::fill(operand.sums.begin(), operand.sums.end(), 0.0);
        for (index_t run = 1; run * options_.run < job.chunk_rows(); ++run)
            for (index_t j = 0; j < width; ++j) operand.sums[j] += operand.sums[run * width + j];
    }

    bool finite_sums(const Job<T>& job) const {
        const auto finite = [&](const Operand<T>& operand) {
            return std::all_of(operand.sums.begin(), operand.sums.begin() + padded(operand),
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
        const std::vector<T> zero(static_cast<std::size_t>(padded(operand)));
        std::vector<T> panels(static_cast<std::size_t>(padded(operand)));
        std::vector<double> sums(static_cast<std::size_t>(padded(operand)));
        pack_function(kernels_, operand.view.dtype)(pack_source(operand, &row, nullptr, 1, kernels_.panel),
                                                    zero.data(), panels.data(), sums.data());
        return std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); });
    }

    // ---- (2) products

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
        team_.run(static_cast<index_t>(tiles.size()), [&](index_t task, int thread) {
            const Tile& tile = tiles[task];
            multiply_tile(jobs[tile.job], tile, products_[thread].data());
        });
    }

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
                for (index_t g = 0; g < kernels_.panel;
                     g += kernels_.rows, c += kernels_.rows * kernels_.panel) {
                    const index_t row = ip * kernels_.panel + g, column = jp * kernels_.panel;
                    const bool above_diagonal = !tile.cross && row + kernels_.rows <= column;
                    if (above_diagonal || row >= job.x.view.columns) continue;
                    visit(row, column, c);
                }
    }

    // Where (row k, column) of an operand is in its panels.
    const T* element(const Job<T>& job, const T* panels, index_t column, index_t k) const {
        return panels + column / kernels_.panel * job.panel_stride + k * kernels_.panel +
               column % kernels_.panel;
    }

    void multiply_tile(Job<T>& job, const Tile& tile, double* product) {
        const Operand<T>& right = tile.cross ? job.cross : job.x;
        // 512 squares of whole numbers up to 127 stay below 2^24, so do 256 of shifted ones: both sums are
        // exact.
        const index_t run =
            job.x.shifted || right.shifted ? std::max<index_t>(1, options_.run / 2) : options_.run;
        for (index_t k = 0; k < job.chunk_rows(); k += run) {
            const index_t n_rows = std::min(run, job.chunk_rows() - k);
            for_each_micro_tile(job, tile, product, [&](index_t row, index_t column, double* c) {
                const auto multiply = k == 0 ? kernels_.store : kernels_.accumulate;
                multiply(element(job, job.x.scaled, row, k), element(job, right.packed, column, k), n_rows,
                         c);
            });
        }
        bool finite = true;
        for_each_micro_tile(job, tile, product, [&](index_t, index_t, const double* c) {
            finite = finite && options_.kernels->all_finite(c, kernels_.rows * kernels_.panel);
        });
        if (!finite) multiply_in_float64(job, right, tile, product);
        for_each_micro_tile(job, tile, product, [&](index_t row, index_t column, const double* c) {
            tile.cross ? add_cross_tile(job, row, column, c) : add_tile(job, row, column, c);
        });
    }

    // A sum of products left the range of float32 (finite inputs above 1e17): the slow and safe way.
    void multiply_in_float64(const Job<T>& job, const Operand<T>& right, const Tile& tile,
                             double* product) const {
        const index_t width = kernels_.panel;
        for_each_micro_tile(job, tile, product, [&](index_t row, index_t column, double* c) {
            const T* a = element(job, job.x.scaled, row, 0);
            const T* b = element(job, right.packed, column, 0);
            std::fill_n(c, kernels_.rows * width, 0.0);
            for (index_t k = 0; k < job.chunk_rows(); ++k)
                for (index_t r = 0; r < kernels_.rows; ++r)
                    for (index_t j = 0; j < width; ++j)
                        c[r * width + j] +=
                            static_cast<double>(a[k * width + r]) * static_cast<double>(b[k * width + j]);
        });
    }

    void add_tile(Job<T>& job, index_t row, index_t column, const double* c) {
        Moments& m = *job.moments;
        const std::vector<double>& sums = job.x.sums;
        const std::vector<double>& delta = job.x.delta;
        const double weight = job.weight;
        for (index_t i = row; i < std::min(row + kernels_.rows, m.x.dim); ++i, c += kernels_.panel) {
            double* out = m.second.data() + i * (i + 1) / 2 + column;
            const index_t n = std::min(kernels_.panel, i - column + 1);
            options_.kernels->add(c, std::max<index_t>(n, 0), out);
            if (job.x.moved) {
                const double sum_i = sums[i] + weight * delta[i];
                for (index_t j = 0; j < n; ++j)
                    out[j] += delta[i] * sums[column + j] + sum_i * delta[column + j];
            }
            if (i - column < kernels_.panel && i >= column) add_diagonal(m.x, job, job.x, i, c[i - column]);
        }
    }

    void add_diagonal(Side& side, const Job<T>& job, const Operand<T>& operand, index_t i,
                      double square) const {
        // The worst case of a run of k sums, and 3 u for the product, the shift and the weight (Higham 2002,
        // section 3.1). Not sqrt(k) u: sums of equal terms are rounded the same way every time.
        const double k = static_cast<double>(std::min(options_.run, job.chunk_rows()));
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
        for (index_t i = row; i < std::min(row + kernels_.rows, m.x.dim); ++i, c += kernels_.panel) {
            double* out = m.cross_second.data() + i * m.cross.dim + column;
            const double sum_i = x.sums[i] + weight * x.delta[i];
            for (index_t j = 0; j < std::min(kernels_.panel, m.cross.dim - column); ++j)
                out[j] += c[j] + (x.delta[i] * y.sums[column + j] + sum_i * y.delta[column + j]);
        }
    }

    // ---- (3) sums

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

    // The cross side has no S2 of its own: its diagonal is needed for the error bound and the next shift.
    void add_squares(Job<T>& job) {
        for (index_t j = 0; j < job.cross.view.columns; ++j) {
            const T* column = element(job, job.cross.packed, j, 0);
            double square = 0;
            for (index_t k = 0; k < job.chunk_rows(); ++k) {
                const double value = column[k * kernels_.panel];
                square += (job.weights.empty() ? 1.0 : job.weights[job.begin + k]) * value * value;
            }
            add_diagonal(*job.cross.side, job, job.cross, j, square);
        }
    }

    const UpdateOptions& options_;
    const TileKernels<T>& kernels_;
    ThreadTeam& team_;
    Workspace& workspace_;
    index_t block_panels_ = 1;
    std::vector<std::vector<double>> products_;  // one per thread
};

// Squares of larger numbers leave float64, and then no sum could be trusted.
void check_magnitude(const MatrixView& view, const double* weights, const char* rule) {
    constexpr double limit = 1e150;
    if (view.dtype != Dtype::float64) return;
    for (index_t i = 0; i < view.rows; ++i) {
        if (weights != nullptr && weights[i] == 0) continue;
        const double* row = static_cast<const double*>(view.data) + i * view.row_stride;
        for (index_t j = 0; j < view.columns; ++j)
            require(!(std::abs(row[j]) > limit) || std::isinf(row[j]), rule, row[j]);
    }
}

void check(const Moments& moments, const Batch& batch) {
    check_magnitude(batch.x, batch.weights, "finite values of x must be at most 1e150 in magnitude");
    check_magnitude(batch.cross, batch.weights, "finite values of cross must be at most 1e150 in magnitude");
    require(batch.x.columns == moments.x.dim, "x must have " + std::to_string(moments.x.dim) + " columns",
            batch.x.columns);
    if (moments.cross.dim > 0) {
        require(batch.cross.columns == moments.cross.dim,
                "cross must have " + std::to_string(moments.cross.dim) + " columns", batch.cross.columns);
        require(batch.cross.rows == batch.x.rows,
                "cross must have as many rows as x, " + std::to_string(batch.x.rows), batch.cross.rows);
    } else {
        require(batch.cross.data == nullptr, "cross needs a Covariance made with cross_dim",
                batch.cross.columns);
    }
    for (index_t i = 0; batch.weights != nullptr && i < batch.x.rows; ++i)
        require(batch.weights[i] >= 0 && std::isfinite(batch.weights[i]), "weights must be finite and >= 0",
                batch.weights[i]);
}

template <typename T>
Job<T> make_job(Moments& moments, const Batch& batch) {
    Job<T> job;
    job.moments = &moments;
    job.x.view = batch.x;
    job.x.side = &moments.x;
    if (moments.cross.dim > 0) {
        job.cross.view = batch.cross;
        job.cross.side = &moments.cross;
    }
    bool plain = true;
    for (index_t i = 0; i < batch.x.rows; ++i) {
        const double weight = batch.weights == nullptr ? 1.0 : batch.weights[i];
        if (weight == 0) continue;
        plain = plain && weight == 1;
        job.rows.push_back(i);
        job.weights.push_back(weight);
    }
    if (plain) job.weights.clear();
    return job;
}

// Whether the largest magnitude of every column, read off a few rows, is 0 or from `low` to `high`.
template <typename Value>
bool within(const MatrixView& view, const std::vector<index_t>& rows, double low, double high) {
    std::vector<double> largest(static_cast<std::size_t>(view.columns));
    for (const index_t row : rows) {
        const Value* values = static_cast<const Value*>(view.data) + row * view.row_stride;
        for (index_t j = 0; j < view.columns; ++j) {
            const double magnitude = std::abs(static_cast<double>(values[j]));
            if (std::isfinite(magnitude)) largest[j] = std::max(largest[j], magnitude);
        }
    }
    return std::all_of(largest.begin(), largest.end(),
                       [&](double m) { return m == 0 || (m >= low && m <= high); });
}

// Products must neither vanish nor overflow in float32.
bool fits_float32(const MatrixView& view, const std::vector<index_t>& rows) {
    constexpr double low = 1e-15, high = 1e16;
    switch (view.dtype) {
        case Dtype::float64:
            return false;
        case Dtype::float32:
            return within<float>(view, rows, low, high);
        case Dtype::bfloat16:
            return within<Eigen::bfloat16>(view, rows, low, high);
        case Dtype::float16:
            return true;
    }
    return false;
}

// float64 data, and float32 data of extreme size, are computed in float64.
bool in_float64(const Batch& batch) {
    std::vector<index_t> rows(static_cast<std::size_t>(batch.x.rows));
    std::iota(rows.begin(), rows.end(), index_t{0});
    rows = scattered(rows);
    const auto moderate = [](double w) { return w == 0 || (w >= 1e-10 && w <= 1e10); };
    const bool weights =
        batch.weights == nullptr || std::all_of(batch.weights, batch.weights + batch.x.rows, moderate);
    const bool cross = batch.cross.data == nullptr || fits_float32(batch.cross, rows);
    return !(weights && cross && fits_float32(batch.x, rows));
}

template <typename T>
void run(std::span<Moments* const> moments, std::span<const Batch> batches, const std::vector<bool>& wide,
         const UpdateOptions& options, ThreadTeam& team, Workspace& workspace,
         std::vector<index_t>& dropped) {
    std::vector<Job<T>> jobs;
    std::vector<std::size_t> origin;
    for (std::size_t i = 0; i < moments.size(); ++i) {
        if (wide[i] != std::is_same_v<T, double>) continue;
        jobs.push_back(make_job<T>(*moments[i], batches[i]));
        origin.push_back(i);
    }
    if (jobs.empty()) return;
    Updater<T>(options, team, workspace).update(jobs);
    for (std::size_t at = 0; at < jobs.size(); ++at) {
        Moments& m = *jobs[at].moments;
        m.nonfinite += jobs[at].nonfinite;
        m.recentre();
        dropped[origin[at]] = jobs[at].nonfinite;
    }
}

}  // namespace

std::vector<index_t> update(std::span<Moments* const> moments, std::span<const Batch> batches,
                            const UpdateOptions& options, Workspace& workspace) {
    const std::lock_guard lock(workspace.mutex());
    for (std::size_t i = 0; i < moments.size(); ++i) {
        check(*moments[i], batches[i]);
        require(std::find(moments.begin(), moments.begin() + i, moments[i]) == moments.begin() + i,
                "each Covariance must appear once in a call", "one of them twice");
    }
    ThreadTeam& team = workspace.team(options.threads);
    std::vector<index_t> dropped(moments.size());
    std::vector<bool> wide;
    for (const Batch& batch : batches) wide.push_back(in_float64(batch));
    run<float>(moments, batches, wide, options, team, workspace, dropped);
    run<double>(moments, batches, wide, options, team, workspace, dropped);
    return dropped;
}

}  // namespace repgeom

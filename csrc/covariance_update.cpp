// The update of covariance.hpp, in chunks of rows. Per chunk: (1) copy the rows into panels, shifted and with
// their column sums; (2) multiply the panels and add the products; (3) add the column sums.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "covariance_job.hpp"
#include "covariance_pack.hpp"
#include "covariance_product.hpp"

namespace repgeom {

namespace {

template <typename T>
class Updater {
  public:
    Updater(const UpdateOptions& options, ThreadTeam& team, Workspace& workspace)
        : at_{options, tile_kernels<T>(*options.kernels), team}, workspace_(workspace) {}

    void update(std::vector<Job<T>>& jobs) {
        for (Job<T>& job : jobs) Packer<T>(at_).prepare(job);
        for (std::size_t first = 0, last; first < jobs.size(); first = last) {
            last = first + 1;
            std::size_t bytes = chunk_bytes(jobs[first], whole(jobs[first]));
            while (last < jobs.size()) {
                bytes += chunk_bytes(jobs[last], whole(jobs[last]));
                if (bytes > at_.options.workspace_bytes) break;
                ++last;
            }
            update_group({jobs.data() + first, last - first});
        }
    }

  private:
    index_t whole(const Job<T>& job) const { return round_up(static_cast<index_t>(job.rows.size())); }

    index_t round_up(index_t rows) const {
        return (rows + at_.options.run - 1) / at_.options.run * at_.options.run;
    }

    std::size_t row_bytes(const Job<T>& job) const {
        const index_t x = at_.padded(job.x) * (job.weights.empty() ? 1 : 2);
        return static_cast<std::size_t>(x + at_.padded(job.cross)) * sizeof(T);
    }

    std::size_t chunk_bytes(const Job<T>& job, index_t rows) const {
        return row_bytes(job) * static_cast<std::size_t>(rows);
    }

    // Rows of one chunk: all if they fit, else what fits; for wide layers enough to hide the pass over S2.
    index_t chunk_limit(const Job<T>& job) const {
        const auto fit =
            static_cast<index_t>(at_.options.workspace_bytes / std::max<std::size_t>(1, row_bytes(job)));
        const index_t rows = std::max({fit, job.moments->x.dim / 2, at_.options.run});
        return std::min(whole(job), rows / at_.options.run * at_.options.run);
    }

    void update_group(std::span<Job<T>> jobs) {
        reserve(jobs);
        Packer<T> packer(at_);
        Multiplier<T> multiplier(at_, widest(jobs));
        for (;;) {
            bool any = false;
            for (Job<T>& job : jobs) {
                job.begin = job.end;
                job.end = std::min(job.begin + job.capacity, static_cast<index_t>(job.rows.size()));
                any = any || job.chunk_rows() > 0;
            }
            if (!any) return;
            packer.pack(jobs);
            multiplier.multiply(jobs);
            for (Job<T>& job : jobs) multiplier.add_sums(job);
        }
    }

    // The panels of a group, allocated before its first sum changes.
    void reserve(std::span<Job<T>> jobs) {
        std::size_t bytes = 0;
        for (Job<T>& job : jobs) {
            job.capacity = chunk_limit(job);
            // Two rows more, or all panels would fall on the same cache sets.
            job.panel_stride = (job.capacity + 2) * at_.kernels.panel;
            bytes += chunk_bytes(job, job.capacity + 2);
        }
        auto* memory = static_cast<T*>(workspace_.reserve(bytes));
        for (Job<T>& job : jobs) {
            const auto take = [&](Operand<T>& operand) {
                operand.packed = operand.scaled = memory;
                memory += operand.panels * job.panel_stride;
                const index_t runs = job.capacity / at_.options.run + 1;
                operand.sums.assign(static_cast<std::size_t>(at_.padded(operand) * runs), 0.0);
            };
            take(job.x);
            if (!job.weights.empty()) {
                job.x.scaled = memory;
                memory += job.x.panels * job.panel_stride;
            }
            if (job.has_cross()) take(job.cross);
        }
    }

    static index_t widest(std::span<const Job<T>> jobs) {
        index_t columns = 0;
        for (const Job<T>& job : jobs) columns = std::max(columns, job.moments->x.dim);
        return columns;
    }

    Context<T> at_;
    Workspace& workspace_;
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
    require(batch.x.columns == moments.x.dim, "x must have " + std::to_string(moments.x.dim) + " columns",
            batch.x.columns);
    if (moments.cross.dim > 0) {
        require(batch.cross.data != nullptr || batch.x.rows == 0,
                "cross is required by a Covariance made with cross_dim", "none");
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
    check_magnitude(batch.x, batch.weights, "finite values of x must be at most 1e150 in magnitude");
    check_magnitude(batch.cross, batch.weights, "finite values of cross must be at most 1e150 in magnitude");
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
    std::vector<index_t> counted;
    for (index_t i = 0; i < batch.x.rows; ++i)
        if (batch.weights == nullptr || batch.weights[i] != 0) counted.push_back(i);
    const std::vector<index_t> rows = scattered(counted);
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

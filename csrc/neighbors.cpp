// The calls of neighbors.hpp: check, plan, pack, join, write.
#include "neighbors.hpp"
#include "denormals.hpp"

#include <string>

#include "neighbors_direct.hpp"
#include "neighbors_input.hpp"
#include "neighbors_lists.hpp"
#include "neighbors_plan.hpp"
#include "neighbors_ranks.hpp"

namespace repgeom {

namespace {

class Call {
  public:
    Call(const MatrixView& reference, const MatrixView* queries, const NeighborOptions& options)
        : options_(options), team_(threads_for(queries == nullptr ? reference : *queries, options)) {
        team_.spread();
        problem_ = make_problem(reference, queries, options, team_, largest_);
    }

  protected:
    static int threads_for(const MatrixView& rows, const NeighborOptions& options) {
        return static_cast<int>(std::clamp<index_t>(rows.rows / 32, 1, std::max(options.threads, 1)));
    }

    const Points& rows() const { return problem_.rows(); }

    void plan(index_t k) {
        plan_ = Planner(problem_, k, largest_).plan();
        order_ = shuffled(problem_.n_reference());
        row_order_ = problem_.self_join && !problem_.precomputed ? order_ : shuffled(rows().rows());
        if (plan_.frame.n_centres > 1) {
            centres_ = assign_centres(problem_.reference);
            if (!problem_.self_join) row_centres_ = assign_centres(problem_.queries);
        }
    }

    std::vector<std::uint8_t> assign_centres(const Points& points) {
        const Frame& frame = plan_.frame;
        std::vector<std::uint8_t> centres(static_cast<std::size_t>(points.rows()));
        std::vector<index_t> ids(static_cast<std::size_t>(frame.n_centres));
        std::iota(ids.begin(), ids.end(), index_t{0});
        std::vector<std::vector<double>> wide(static_cast<std::size_t>(team_.size()));
        for_rows(team_, points.rows(), [&](index_t row, int thread) {
            wide[thread].resize(static_cast<std::size_t>(frame.centre_stride));
            problem_.pairs->widen[static_cast<int>(points.view.dtype)](
                row_address(points.view, row), frame.features, points.factor(row), wide[thread].data());
            double values[256];
            problem_.pairs->evaluate[static_cast<int>(Measure::squared)][static_cast<int>(Dtype::float64)](
                wide[thread].data(), {frame.centres.data(), frame.centre_stride, frame.features, nullptr},
                ids.data(), frame.n_centres, 2, values);
            centres[row] =
                static_cast<std::uint8_t>(std::min_element(values, values + frame.n_centres) - values);
        });
        return centres;
    }

    template <typename T>
    void make_panels(const Points& points, const std::vector<std::int32_t>& rows,
                     const std::vector<std::uint8_t>& centres, Panels<T>& panels) {
        if (plan_.path != Path::direct) {
            PanelPacker<T>(problem_, plan_.frame, team_).pack(points, rows, centres, panels);
            return;
        }
        if constexpr (std::is_same_v<T, double>) make_plain(plan_.frame, rows, panels);
    }

    template <typename T, typename Sink>
    void join(const Panels<T>& rows, const Panels<T>& columns, Sink& sink, const NeighborOptions& options) {
        if (plan_.path != Path::direct) {
            Join<T, Sink>(problem_, plan_.frame, rows, columns, team_, sink).run(options);
            return;
        }
        if constexpr (std::is_same_v<T, double>)
            DirectJoin<Sink>(problem_, rows, columns, team_, sink).run(options);
    }

    // Rows of a panel of rows and of a panel of columns that the limit on memory allows; 0: all at once.
    index_t rows_at_once(std::size_t list_bytes, std::size_t panel_bytes) {
        const auto n_rows = static_cast<std::size_t>(rows().rows());
        const auto n_columns = static_cast<std::size_t>(problem_.n_reference());
        const bool one_set = problem_.self_join && !problem_.precomputed;
        // Panels are filled up at the end of each centre's rows.
        const std::size_t filling = 48 * static_cast<std::size_t>(plan_.frame.n_centres);
        const std::size_t fixed = fixed_bytes() + filling * (list_bytes + 2 * panel_bytes);
        certificate_.bytes =
            fixed + n_rows * (list_bytes + panel_bytes) + (one_set ? 0 : n_columns * panel_bytes);
        if (options_.memory_limit == 0 || certificate_.bytes <= options_.memory_limit) return 0;
        const std::size_t per_row = list_bytes + 2 * panel_bytes, least = fixed + 64 * per_row;
        require(options_.memory_limit >= least,
                "memory_limit must be at least " + std::to_string(least) + " bytes for this call",
                options_.memory_limit);
        const auto at_once = static_cast<index_t>((options_.memory_limit - fixed) / per_row) / 64 * 64;
        certificate_.bytes = fixed + static_cast<std::size_t>(at_once) * per_row;
        return at_once;
    }

    std::size_t fixed_bytes() const {
        const auto n = static_cast<std::size_t>(problem_.n_reference() + problem_.queries.rows());
        const std::size_t factors = problem_.reference.factors.empty() ? 0 : 8;
        const std::size_t block = plan_.frame.runs() > 1 ? 192 * 192 * 8 : 0;
        const std::size_t packing = 48 * static_cast<std::size_t>(plan_.frame.features + 16) * 8;
        return n * (5 + factors) + static_cast<std::size_t>(team_.size()) * (block + packing);
    }

    static const char* name_of(Path path) {
        switch (path) {
            case Path::products32:
                return "float32 products";
            case Path::products64:
                return "float64 products";
            case Path::differences64:
                return "float64 differences";
            case Path::direct:
                return "direct";
        }
        return "";
    }

    template <typename T>
    void describe(const Panels<T>& rows, const Panels<T>& columns) {
        certificate_.path = name_of(plan_.path);
        certificate_.centres = plan_.frame.n_centres;
        if (plan_.path == Path::products32 || plan_.path == Path::products64)
            certificate_.error_bound = std::max(
                certificate_.error_bound, (rows.largest_share + columns.largest_share) / plan_.frame.to_key);
    }

    // Progress of one of `parts` equal parts.
    NeighborOptions part_of(index_t part, index_t parts) const {
        NeighborOptions options = options_;
        if (options.progress)
            options.progress = [this, part, parts](double share) {
                options_.progress((static_cast<double>(part) + share) / static_cast<double>(parts));
            };
        return options;
    }

    const NeighborOptions& options_;
    ThreadTeam team_;
    Problem problem_;
    double largest_ = 0;
    Plan plan_;
    std::vector<std::int32_t> order_, row_order_;
    std::vector<std::uint8_t> centres_, row_centres_;
    Certificate certificate_;
};

using Rows = std::vector<std::int32_t>;

std::vector<Rows> cut(const Rows& order, index_t size) {
    std::vector<Rows> parts;
    for (index_t at = 0; at < static_cast<index_t>(order.size()); at += size)
        parts.emplace_back(order.begin() + at,
                           order.begin() + std::min(at + size, static_cast<index_t>(order.size())));
    return parts;
}

class NearestCall : public Call {
  public:
    using Call::Call;

    Certificate run(index_t k, double* distances, index_t* indices) {
        const index_t others = problem_.n_reference() - (problem_.self_join && problem_.exclude_self ? 1 : 0);
        require(k >= 1, "k must be at least 1", k);
        require(k <= others,
                "k must be at most " + std::to_string(others) +
                    ", the rows that can be neighbours (n - 1 without the row itself)",
                k);
        plan(k);
        k_ = k;
        distances_ = distances;
        indices_ = indices;
        plan_.path == Path::products32 ? find<float>() : find<double>();
        to_distances();
        return certificate_;
    }

  private:
    template <typename T>
    void find() {
        const bool direct = plan_.path == Path::direct;
        const std::size_t panel_bytes =
            direct ? 3 * sizeof(double) + 8 : Panels<T>::bytes_per_row(plan_.frame);
        const index_t at_once = rows_at_once(Lists<T>::bytes_per_row(problem_, k_), panel_bytes);
        const bool one_set = problem_.self_join && !problem_.precomputed;
        const std::vector<std::uint8_t>& row_centres = problem_.self_join ? centres_ : row_centres_;
        const auto row_parts = cut(row_order_, at_once == 0 ? rows().rows() : at_once);
        const auto column_parts = cut(order_, at_once == 0 ? problem_.n_reference() : at_once);
        const auto parts = static_cast<index_t>(row_parts.size() * column_parts.size());
        certificate_.row_panels = static_cast<index_t>(row_parts.size());
        index_t part = 0;
        for (const Rows& these : row_parts) {
            Panels<T> row_panels, column_panels;
            make_panels(rows(), these, row_centres, row_panels);
            const bool symmetric = one_set && at_once == 0;
            if (!symmetric) make_panels(problem_.reference, column_parts[0], centres_, column_panels);
            Panels<T>& columns = symmetric ? row_panels : column_panels;
            // Positions of columns mean something only while their panels are there.
            const bool keep = column_parts.size() == 1;
            Lists<T> lists(problem_, plan_.frame, row_panels, columns, k_, team_.size(), distances_,
                           indices_);
            for (std::size_t c = 0; c < column_parts.size(); ++c, ++part) {
                if (c > 0) make_panels(problem_.reference, column_parts[c], centres_, column_panels);
                join(row_panels, columns, lists, part_of(part, parts));
                describe(row_panels, columns);
                if (c + 1 < column_parts.size()) settle(row_panels, lists);
            }
            if (keep) certificate_.rows_resolved_early += lists.settled_rows();
            settle(row_panels, lists);
            lists.add_statistics(certificate_);
        }
    }

    template <typename T>
    void settle(const Panels<T>& panels, Lists<T>& lists) {
        for_rows(team_, panels.positions(), [&](index_t row, int thread) {
            if (panels.order[row] >= 0) lists.finish(row, thread);
        });
    }

    // What orders the pairs becomes what users see.
    void to_distances() {
        const auto convert = [&](double value) {
            switch (options_.metric) {
                case Metric::euclidean:
                    return std::sqrt(value);
                case Metric::cosine:
                    return value / 2;
                case Metric::hamming:
                    return value / static_cast<double>(problem_.reference.columns());
                default:
                    return value;
            }
        };
        for_rows(team_, rows().rows(), [&](index_t row, int) {
            for (index_t e = row * k_; e < (row + 1) * k_; ++e) distances_[e] = convert(distances_[e]);
        });
    }

    index_t k_ = 0;
    double* distances_ = nullptr;
    index_t* indices_ = nullptr;
};

class RanksCall : public Call {
  public:
    using Call::Call;

    Certificate run(const index_t* points, index_t m, index_t* ranks) {
        const index_t n = problem_.n_reference();
        for (index_t i = 0; i < n; ++i)
            for (index_t q = 0; q < m; ++q) {
                const index_t point = points[i * m + q];
                const std::string at = std::to_string(point) + " in row " + std::to_string(i);
                require(point >= 0 && point < n, "indices must be from 0 to n - 1 = " + std::to_string(n - 1),
                        at);
                require(point != i, "indices must not name the row itself", at);
            }
        if (m == 0) return certificate_;
        plan(std::max<index_t>(1, n / 2));
        plan_.path == Path::products32 ? count<float>(points, m, ranks) : count<double>(points, m, ranks);
        return certificate_;
    }

  private:
    template <typename T>
    void count(const index_t* points, index_t m, index_t* ranks) {
        const std::size_t panel_bytes =
            plan_.path == Path::direct ? 3 * sizeof(double) + 8 : Panels<T>::bytes_per_row(plan_.frame);
        const index_t at_once = rows_at_once(Ranks<T>::bytes_per_row(m), panel_bytes);
        const auto parts = cut(order_, at_once == 0 ? rows().rows() : at_once);
        const auto total = static_cast<index_t>(parts.size() * parts.size());
        certificate_.row_panels = static_cast<index_t>(parts.size());
        index_t part = 0;
        for (const Rows& these : parts) {
            Panels<T> row_panels, column_panels;
            make_panels(rows(), these, centres_, row_panels);
            const bool symmetric = at_once == 0 && !problem_.precomputed;
            if (!symmetric) make_panels(problem_.reference, parts[0], centres_, column_panels);
            Panels<T>& columns = symmetric ? row_panels : column_panels;
            Ranks<T> counts(problem_, plan_.frame, row_panels, columns, points, m, team_);
            for (std::size_t c = 0; c < parts.size(); ++c, ++part) {
                if (c > 0) make_panels(problem_.reference, parts[c], centres_, column_panels);
                join(row_panels, columns, counts, part_of(part, total));
            }
            describe(row_panels, columns);
            counts.write(ranks);
            counts.add_statistics(certificate_);
        }
    }
};

}  // namespace

Certificate nearest_neighbors(const MatrixView& reference, const MatrixView* queries, index_t k,
                              const NeighborOptions& options, double* distances, index_t* indices) {
    const DenormalsCount denormals;
    return NearestCall(reference, queries, options).run(k, distances, indices);
}

Certificate neighbor_ranks(const MatrixView& x, const index_t* points, index_t m,
                           const NeighborOptions& options, index_t* ranks) {
    const DenormalsCount denormals;
    return RanksCall(x, nullptr, options).run(points, m, ranks);
}

}  // namespace repgeom

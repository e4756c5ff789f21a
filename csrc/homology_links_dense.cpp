#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "homology_links_find.hpp"

namespace repgeom {

static_assert(sizeof(Edge) == 2 * sizeof(std::uint32_t));

const LinkKernels& link_kernels(const KernelTable& table) {
#if defined(__x86_64__)
    for (const LinkKernels* links : {&avx2_links, &avx512_links})
        if (std::string_view(links->name) == table.name) return *links;
#endif
    static_cast<void>(table);
    return baseline_links;
}

namespace {

struct alignas(64) Line {
    std::array<std::uint64_t, 8> words;
};

class DenseLinks : public Links {
  public:
    explicit DenseLinks(index_t n)
        : roots(uninitialized<std::uint16_t>(static_cast<std::size_t>(n * (n - 1) / 2))) {}

    vertex_t root(vertex_t u, vertex_t v) const override {
        return roots[static_cast<std::size_t>(u) * (u - 1) / 2 + v];
    }

    std::unique_ptr<std::uint16_t[]> roots;
};

// Adjacency as it is before one edge; every thread has its own.
class Snapshot {
  public:
    explicit Snapshot(const Filtration& filtration)
        : edges_(filtration.edges.data()),
          lines_((filtration.n + 511) / 512),
          rows_(static_cast<std::size_t>(filtration.n * lines_)),
          scratch_(static_cast<std::size_t>(3 * lines_)),
          events_(static_cast<std::size_t>(std::max<index_t>(8192, 2 * 512 * lines_))) {
        for (index_t x = 0; x < filtration.n; ++x) add(x, x);
    }

    void advance(index_t edge, LinkChunks& chunks) {
        for (; position_ < edge; ++position_) {
            if (position_ % 65536 == 0) chunks.report(0);
            const auto [u, v] = edges_[position_];
            add(u, v);
            add(v, u);
        }
    }

    void find(const LinkKernels& kernels, std::uint16_t* roots, LinkChunks& chunks, index_t chunk) {
        constexpr index_t lines_per_report = index_t{1} << 22;
        LinkSpan span;
        span.ends = &edges_->u;
        span.rows = rows_.data()->words.data();
        span.row_words = lines_ * 8;
        span.scratch = scratch_.data()->words.data();
        span.roots = roots;
        span.events = events_.data();
        span.room = static_cast<index_t>(events_.size());
        span.next = position_;
        span.last = chunks.last(chunk);
        while (span.next < span.last) {
            const index_t before = span.next;
            span.steps = lines_per_report / lines_;
            span.n_events = 0;
            kernels.find(span);
            chunks.add(chunk, span.events, span.n_events);
            chunks.report(span.next - before);
        }
        position_ = span.last;
    }

  private:
    void add(index_t x, index_t y) {
        rows_[x * lines_ + y / 512].words[y / 64 % 8] |= std::uint64_t{1} << y % 64;
    }

    const Edge* edges_;
    index_t lines_;
    index_t position_ = 0;
    std::vector<Line> rows_;
    std::vector<Line> scratch_;
    std::vector<LinkEvent> events_;
};

}  // namespace

std::unique_ptr<Links> find_dense_links(const Filtration& filtration, const KernelTable& kernels,
                                        ThreadTeam& team, Watch& watch) {
    auto links = std::make_unique<DenseLinks>(filtration.n);
    LinkChunks chunks(static_cast<index_t>(filtration.edges.size()), team.size(), watch);
    const LinkKernels& table = link_kernels(kernels);
    std::vector<std::optional<Snapshot>> snapshots(static_cast<std::size_t>(team.size()));
    team.spread();
    team.run(chunks.count(), [&](index_t chunk, int thread) {
        std::optional<Snapshot>& snapshot = snapshots[static_cast<std::size_t>(thread)];
        if (!snapshot) snapshot.emplace(filtration);
        snapshot->advance(chunks.first(chunk), chunks);
        snapshot->find(table, links->roots.get(), chunks, chunk);
    });
    links->events = chunks.joined();
    return links;
}

}  // namespace repgeom

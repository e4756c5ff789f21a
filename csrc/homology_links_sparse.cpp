#include <algorithm>
#include <optional>
#include <utility>

#include "homology_links_find.hpp"

namespace repgeom {
namespace {

struct Neighbor {
    vertex_t vertex;
    rank_t rank;  // of the edge to it
};

struct Neighbors {
    const Neighbor* first;
    const Neighbor* last;

    const Neighbor* begin() const { return first; }
    const Neighbor* end() const { return last; }
    index_t size() const { return last - first; }
};

// The neighbours of every vertex, in order.
class Adjacency {
  public:
    Adjacency(const Filtration& filtration, const Watch& watch)
        : starts_(static_cast<std::size_t>(filtration.n) + 1, 0), neighbors_(2 * filtration.edges.size()) {
        for (const Edge& edge : filtration.edges) {
            ++starts_[edge.u];
            ++starts_[edge.v];
        }
        index_t sum = 0;
        for (index_t& start : starts_) sum = start += sum;  // ends, which go down to starts
        for (auto rank = static_cast<rank_t>(filtration.edges.size()); rank-- > 0;) {
            if (rank % 65536 == 0) watch.check();
            const Edge& edge = filtration.edges[rank];
            neighbors_[--starts_[edge.u]] = {edge.v, rank};
            neighbors_[--starts_[edge.v]] = {edge.u, rank};
        }
        for (index_t x = 0; x < filtration.n; ++x) {
            if (x % 1024 == 0) watch.check();
            std::sort(neighbors_.begin() + starts_[x], neighbors_.begin() + starts_[x + 1],
                      [](const Neighbor& a, const Neighbor& b) { return a.vertex < b.vertex; });
        }
    }

    Neighbors of(vertex_t x) const {
        return {neighbors_.data() + starts_[x], neighbors_.data() + starts_[x + 1]};
    }

  private:
    std::vector<index_t> starts_;
    std::vector<Neighbor> neighbors_;
};

const Neighbor* find_neighbor(const Neighbor* first, const Neighbor* last, vertex_t vertex) {
    return std::lower_bound(first, last, vertex, [](const Neighbor& a, vertex_t b) { return a.vertex < b; });
}

class SparseLinks : public Links {
  public:
    SparseLinks(const Filtration& filtration, const Watch& watch)
        : adjacency(filtration, watch), roots(uninitialized<vertex_t>(filtration.edges.size())) {}

    vertex_t root(vertex_t u, vertex_t v) const override {
        const Neighbors neighbors = adjacency.of(u);
        return roots[find_neighbor(neighbors.begin(), neighbors.end(), v)->rank];
    }

    Adjacency adjacency;
    std::unique_ptr<vertex_t[]> roots;  // of every edge
};

// Finds the link of one edge after another, in any order of the edges.
class Walker {
  public:
    Walker(const Filtration& filtration, SparseLinks& links)
        : edges_(filtration.edges.data()),
          links_(links),
          states_(static_cast<std::size_t>(filtration.n), State::absent) {}

    void find(rank_t edge, std::vector<LinkEvent>& events) {
        edge_ = edge;
        intersect(links_.adjacency.of(edges_[edge].u), links_.adjacency.of(edges_[edge].v));
        if (link_.empty()) {
            events.push_back({edge, no_root});
            return;
        }
        links_.roots[edge] = link_.front();
        if (link_.size() == 1) return;
        outside_ = link_;
        for (const vertex_t x : link_) states_[x] = State::outside;
        grow(link_.front());
        for (; !outside_.empty(); grow(outside_.front())) events.push_back({edge, outside_.front()});
        for (const vertex_t x : link_) states_[x] = State::absent;
    }

    // Lists of neighbours read since the last call, by their length.
    index_t take_steps() { return std::exchange(steps_, 0); }

  private:
    enum class State : std::uint8_t { absent, outside, reached };

    void intersect(Neighbors a, Neighbors b) {
        link_.clear();
        if (a.size() > b.size()) std::swap(a, b);
        const bool jump = b.size() / 16 > a.size();
        steps_ += jump ? 16 * a.size() : a.size() + b.size();
        const Neighbor* at = b.begin();
        for (const Neighbor& x : a) {
            if (jump) at = find_neighbor(at, b.end(), x.vertex);
            while (at != b.end() && at->vertex < x.vertex) ++at;
            if (at == b.end()) return;
            if (at->vertex == x.vertex && std::max(at->rank, x.rank) < edge_) link_.push_back(x.vertex);
        }
    }

    // The component of the smallest vertex outside: closes its open members one by one, or all of them by a
    // look at the neighbours of every vertex outside, whichever reads fewer lists.
    void grow(vertex_t root) {
        reach(root);
        while (true) {
            outside_.erase(std::remove_if(outside_.begin(), outside_.end(),
                                          [&](vertex_t x) { return states_[x] == State::reached; }),
                           outside_.end());
            if (outside_.empty() || open_.empty()) break;
            if (outside_.size() <= open_.size()) {
                test_outside();
            } else {
                std::swap(open_, closing_);
                for (const vertex_t x : closing_) reach_neighbors(x);
                closing_.clear();
            }
        }
        open_.clear();
    }

    void test_outside() {
        open_.clear();
        for (const vertex_t x : outside_) {
            if (states_[x] == State::reached) continue;
            const Neighbors neighbors = links_.adjacency.of(x);
            steps_ += neighbors.size();
            if (std::any_of(neighbors.begin(), neighbors.end(), [&](const Neighbor& y) {
                    return y.rank < edge_ && states_[y.vertex] == State::reached;
                }))
                reach(x);
        }
    }

    void reach_neighbors(vertex_t x) {
        const Neighbors neighbors = links_.adjacency.of(x);
        steps_ += neighbors.size();
        for (const Neighbor& y : neighbors)
            if (y.rank < edge_ && states_[y.vertex] == State::outside) reach(y.vertex);
    }

    void reach(vertex_t x) {
        states_[x] = State::reached;
        open_.push_back(x);
    }

    const Edge* edges_;
    SparseLinks& links_;
    rank_t edge_ = 0;
    index_t steps_ = 0;
    std::vector<State> states_;
    std::vector<vertex_t> link_, outside_, open_, closing_;
};

void find_chunk(Walker& walker, LinkChunks& chunks, index_t chunk) {
    constexpr index_t steps_per_report = index_t{1} << 22;
    std::vector<LinkEvent> events;
    index_t steps = 0, reported = chunks.first(chunk);
    for (index_t edge = chunks.first(chunk); edge < chunks.last(chunk); ++edge) {
        walker.find(static_cast<rank_t>(edge), events);
        steps += walker.take_steps() + 16;
        if (steps < steps_per_report) continue;
        chunks.report(edge - reported);
        reported = edge;
        steps = 0;
    }
    chunks.add(chunk, events.data(), static_cast<index_t>(events.size()));
    chunks.report(chunks.last(chunk) - reported);
}

}  // namespace

std::unique_ptr<Links> find_sparse_links(const Filtration& filtration, ThreadTeam& team, Watch& watch) {
    auto links = std::make_unique<SparseLinks>(filtration, watch);
    LinkChunks chunks(static_cast<index_t>(filtration.edges.size()), team.size(), watch);
    std::vector<std::optional<Walker>> walkers(static_cast<std::size_t>(team.size()));
    team.run(chunks.count(), [&](index_t chunk, int thread) {
        std::optional<Walker>& walker = walkers[static_cast<std::size_t>(thread)];
        if (!walker) walker.emplace(filtration, *links);
        find_chunk(*walker, chunks, chunk);
    });
    links->events = chunks.joined();
    return links;
}

}  // namespace repgeom

#include "homology_links.hpp"

#include "homology_links_find.hpp"
#include "homology_links_follow.hpp"

namespace repgeom {

LinkChunks::LinkChunks(index_t edges, int threads, Watch& watch) : edges_(edges), watch_(watch) {
    constexpr index_t least = 4096, chunks_per_thread = 32;
    size_ =
        threads == 1 ? std::max<index_t>(edges, 1) : std::max(least, edges / (threads * chunks_per_thread));
    events_.resize(static_cast<std::size_t>((edges + size_ - 1) / size_));
}

void LinkChunks::add(index_t chunk, const LinkEvent* events, index_t n_events) {
    events_[chunk].insert(events_[chunk].end(), events, events + n_events);
}

void LinkChunks::report(index_t edges) {
    watch_.check();
    const index_t done = done_.fetch_add(edges) + edges;
    watch_.report(static_cast<double>(done) / static_cast<double>(edges_));
}

std::vector<LinkEvent> LinkChunks::joined() const {
    std::vector<LinkEvent> events;
    for (const auto& chunk : events_) events.insert(events.end(), chunk.begin(), chunk.end());
    return events;
}

// Bitsets where they are the faster ones (n / 128 vector operations per edge against about four times the
// mean degree) and do not take much more memory than the edges themselves.
LinkLayout choose_layout(index_t n, index_t edges) {
    constexpr index_t most_vertices = 65536, small = 1024, free_bytes = index_t{1} << 26, bytes_per_edge = 32;
    if (n <= small) return LinkLayout::dense;
    if (n > most_vertices || n * n / 8 + n * n > free_bytes + bytes_per_edge * edges)
        return LinkLayout::sparse;
    return edges >= n * n / 512 ? LinkLayout::dense : LinkLayout::sparse;
}

LinkResult reduce_links(const Filtration& filtration, const LinkOptions& options, LinkLayout layout,
                        ThreadTeam& team, Watch& watch) {
    LinkResult result;
    const PrimeField field(options.field);  // refuses what is none
    result.loops.dim = 1;
    if (!options.loops) {
        follow_components(filtration, watch, result);
        return result;
    }
    const auto edges = static_cast<index_t>(filtration.edges.size());
    if (layout == LinkLayout::automatic) layout = choose_layout(filtration.n, edges);
    const auto links = layout == LinkLayout::dense
                           ? find_dense_links(filtration, *options.kernels, team, watch)
                           : find_sparse_links(filtration, team, watch);
    follow_links(filtration, *links, options, watch, result);
    return result;
}

LinkResult reduce_links(const Filtration& filtration, const LinkOptions& options, ThreadTeam& team,
                        Watch& watch) {
    return reduce_links(filtration, options, LinkLayout::automatic, team, watch);
}

}  // namespace repgeom

// The first pass of reduce_links(): what the links of all edges have to say, before any class is followed.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "homology_filtration.hpp"
#include "homology_links.hpp"
#include "homology_links_kernels.hpp"

namespace repgeom {

class Links {
  public:
    virtual ~Links() = default;

    // The smallest vertex of the link of edge (u, v), u > v, which must not be empty.
    virtual vertex_t root(vertex_t u, vertex_t v) const = 0;

    // In order of edges, then of roots.
    std::vector<LinkEvent> events;
};

// dense: adjacency as growing bitsets, n^2 / 8 bytes per thread, and n^2 bytes of roots; up to 65536
// vertices. sparse: sorted lists of neighbours, 20 bytes per edge. Both find the same.
enum class LinkLayout { automatic, dense, sparse };

LinkLayout choose_layout(index_t n, index_t edges);

std::unique_ptr<Links> find_dense_links(const Filtration& filtration, const KernelTable& kernels,
                                        ThreadTeam& team, Watch& watch);
std::unique_ptr<Links> find_sparse_links(const Filtration& filtration, ThreadTeam& team, Watch& watch);

// reduce_links() in a layout of the caller's choice.
LinkResult reduce_links(const Filtration& filtration, const LinkOptions& options, LinkLayout layout,
                        ThreadTeam& team, Watch& watch);

// The edges in chunks, which threads take in turn; the events of each, put together in the end.
class LinkChunks {
  public:
    LinkChunks(index_t edges, int threads, Watch& watch);

    index_t count() const { return static_cast<index_t>(events_.size()); }
    index_t first(index_t chunk) const { return chunk * size_; }
    index_t last(index_t chunk) const { return std::min(edges_, (chunk + 1) * size_); }

    void add(index_t chunk, const LinkEvent* events, index_t n_events);

    // Says how far the work is, and hears whether it should stop.
    void report(index_t edges);

    std::vector<LinkEvent> joined() const;

  private:
    index_t edges_;
    index_t size_;
    Watch& watch_;
    std::vector<std::vector<LinkEvent>> events_;
    std::atomic<index_t> done_{0};
};

}  // namespace repgeom

// The second pass of reduce_links(): follows components and classes of dimension 1 through the events.
//
// The annotation of an edge says which classes it belongs to: a(u, v) = a(u, r) + a(r, v) for a vertex r of
// its link. That is unrolled only where an event asks for it, which is a small part of all edges.
#pragma once

#include <vector>

#include "homology_annotations.hpp"
#include "homology_links_find.hpp"

namespace repgeom {

// Components of a growing graph, each named by its smallest vertex.
class LinkComponents {
  public:
    explicit LinkComponents(index_t n);

    // The component that is absorbed by another when an edge joins them; `no_rank` if both ends are in one.
    vertex_t join(const Edge& edge);
    vertex_t name(vertex_t x);

  private:
    std::vector<vertex_t> parents_;
};

// Ids by pair of vertices.
class PairTable {
  public:
    PairTable();

    // Null if there is none; to be used before the next put().
    const std::uint32_t* find(vertex_t u, vertex_t v) const;
    void put(vertex_t u, vertex_t v, std::uint32_t id);

    std::vector<std::uint32_t>& ids() { return ids_; }

  private:
    std::size_t place(std::uint64_t key) const;

    std::vector<std::uint64_t> keys_;  // of every place; `no_key` where there is none
    std::vector<std::uint32_t> ids_;   // 0 where there is no key
    std::size_t count_ = 0;
};

// Both dimensions.
void follow_links(const Filtration& filtration, const Links& links, const LinkOptions& options, Watch& watch,
                  LinkResult& result);

// Dimension 0 alone, which needs no links.
void follow_components(const Filtration& filtration, Watch& watch, LinkResult& result);

}  // namespace repgeom

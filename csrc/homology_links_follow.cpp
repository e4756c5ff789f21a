#include "homology_links_follow.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <optional>

namespace repgeom {

LinkComponents::LinkComponents(index_t n) : parents_(static_cast<std::size_t>(n)) {
    std::iota(parents_.begin(), parents_.end(), vertex_t{0});
}

vertex_t LinkComponents::name(vertex_t x) {
    while (parents_[x] != x) x = parents_[x] = parents_[parents_[x]];
    return x;
}

vertex_t LinkComponents::join(const Edge& edge) {
    const vertex_t a = name(edge.u), b = name(edge.v);
    if (a == b) return no_rank;
    parents_[std::max(a, b)] = std::min(a, b);
    return std::max(a, b);
}

namespace {

constexpr std::uint64_t no_key = ~std::uint64_t{0};

std::uint64_t key_of(vertex_t u, vertex_t v) { return std::uint64_t{u} << 32 | v; }

}  // namespace

PairTable::PairTable() : keys_(1024, no_key), ids_(1024, 0) {}

std::size_t PairTable::place(std::uint64_t key) const {
    const std::uint64_t hash = key * 0x9e3779b97f4a7c15u;
    std::size_t at = (hash ^ hash >> 32) & (keys_.size() - 1);
    while (keys_[at] != key && keys_[at] != no_key) at = (at + 1) & (keys_.size() - 1);
    return at;
}

const std::uint32_t* PairTable::find(vertex_t u, vertex_t v) const {
    const std::size_t at = place(key_of(u, v));
    return keys_[at] == no_key ? nullptr : &ids_[at];
}

void PairTable::put(vertex_t u, vertex_t v, std::uint32_t id) {
    const std::size_t at = place(key_of(u, v));
    count_ += keys_[at] == no_key ? 1 : 0;
    keys_[at] = key_of(u, v);
    ids_[at] = id;
    if (2 * count_ <= keys_.size()) return;
    std::vector<std::uint64_t> keys(2 * keys_.size(), no_key);
    std::vector<std::uint32_t> ids(keys.size(), 0);
    std::swap(keys, keys_);
    std::swap(ids, ids_);
    for (std::size_t i = 0; i < keys.size(); ++i) {
        if (keys[i] == no_key) continue;
        const std::size_t to = place(keys[i]);
        keys_[to] = keys[i];
        ids_[to] = ids[i];
    }
}

namespace {

// Bars of dimension 0 in order of deaths, then those that live for ever in order of vertices.
class ComponentBars {
  public:
    ComponentBars(const Filtration& filtration, Bars& bars)
        : filtration_(filtration), components_(filtration.n), bars_(bars) {
        bars_.dim = 0;
    }

    bool join(rank_t edge) {
        const Edge& ends = filtration_.edges[edge];
        const vertex_t absorbed = components_.join(ends);
        if (absorbed == no_rank) return false;
        add(absorbed, edge, ends);
        return true;
    }

    void finish() {
        for (vertex_t x = 0; x < filtration_.n; ++x)
            if (components_.name(x) == x) add(x, no_rank, {0, 0});
    }

  private:
    void add(vertex_t x, rank_t death, const Edge& ends) {
        bars_.births.push_back(0);
        bars_.deaths.push_back(death);
        bars_.birth_simplices.push_back(x);
        bars_.death_simplices.insert(bars_.death_simplices.end(), {ends.u, ends.v});
    }

    const Filtration& filtration_;
    LinkComponents components_;
    Bars& bars_;
};

template <bool binary>
class Loops {
  public:
    Loops(const Filtration& filtration, const Links& links, int field, const Watch& watch)
        : filtration_(filtration), links_(links), watch_(watch), annotations_(field) {}

    // An edge whose link is empty.
    void add_edge(rank_t edge, bool closes_loop) {
        const auto [u, v] = filtration_.edges[edge];
        table_.put(u, v, closes_loop ? annotations_.give_birth() : 0);
        if (!closes_loop) return;
        births_.push_back(edge);
        dead_.push_back(false);
    }

    // The birth of the class that the triangle destroys, if it does.
    std::optional<rank_t> add_triangle(const LinkEvent& event) {
        const auto [u, v] = filtration_.edges[event.edge];
        unroll(u, event.root);
        unroll(event.root, v);
        unroll(u, v);
        const id_t path = sum(u, event.root, v);
        const id_t z = annotations_.combine(path, 1, *table_.find(u, v), minus(1));
        if (annotations_.crowded()) return kill_and_compact(z);
        return kill(z);
    }

    // Classes that live for ever, in order of births.
    void finish(Bars& bars) const {
        for (std::size_t c = 0; c < births_.size(); ++c) {
            if (dead_[c]) continue;
            add_bar(bars, births_[c], no_rank, {0, 0, 0});
        }
    }

    void add_bar(Bars& bars, rank_t birth, rank_t death, const std::array<vertex_t, 3>& triangle) const {
        const Edge& ends = filtration_.edges[birth];
        bars.births.push_back(birth);
        bars.deaths.push_back(death);
        bars.birth_simplices.insert(bars.birth_simplices.end(), {ends.u, ends.v});
        bars.death_simplices.insert(bars.death_simplices.end(), triangle.begin(), triangle.end());
    }

  private:
    using id_t = typename Annotations<binary>::id_t;

    std::uint32_t minus(std::uint32_t a) const { return annotations_.field().negative(a); }

    // What the table holds is the annotation from the larger vertex to the smaller one.
    const id_t* find(vertex_t x, vertex_t y) const { return table_.find(std::max(x, y), std::min(x, y)); }
    std::uint32_t sign(vertex_t from, vertex_t to) const { return from > to ? 1 : minus(1); }

    // a(u, r) + a(r, v), both of which are in the table.
    id_t sum(vertex_t u, vertex_t r, vertex_t v) {
        return annotations_.combine(*find(u, r), sign(u, r), *find(r, v), sign(r, v));
    }

    // Puts the annotation of an edge into the table.
    void unroll(vertex_t x, vertex_t y) {
        if (find(x, y) != nullptr) return;
        pending_.push_back({std::max(x, y), std::min(x, y)});
        while (!pending_.empty()) {
            const auto [u, v] = pending_.back();
            const vertex_t r = links_.root(u, v);
            const std::size_t before = pending_.size();
            if (find(u, r) == nullptr) pending_.push_back({std::max(u, r), std::min(u, r)});
            if (find(r, v) == nullptr) pending_.push_back({std::max(r, v), std::min(r, v)});
            if (pending_.size() != before) continue;
            table_.put(u, v, sum(u, r, v));
            pending_.pop_back();
            if ((++unrolled_ & 0xfff) == 0) watch_.check();
        }
    }

    std::optional<rank_t> kill(id_t z) {
        if (z == 0) return std::nullopt;
        const class_t c = annotations_.kill(z);
        dead_[c] = true;
        return births_[c];
    }

    std::optional<rank_t> kill_and_compact(id_t z) {
        const auto birth = kill(z);
        annotations_.compact(table_.ids());
        return birth;
    }

    const Filtration& filtration_;
    const Links& links_;
    const Watch& watch_;
    std::size_t unrolled_ = 0;
    Annotations<binary> annotations_;
    PairTable table_;
    std::vector<rank_t> births_;  // of every class
    std::vector<bool> dead_;
    std::vector<Edge> pending_;
};

template <bool binary>
void follow(const Filtration& filtration, const Links& links, const LinkOptions& options, Watch& watch,
            LinkResult& result) {
    ComponentBars components(filtration, result.components);
    Loops<binary> loops(filtration, links, options.field, watch);
    result.loops.dim = 1;
    for (const LinkEvent& event : links.events) {
        watch.check();
        if (event.root == no_root) {
            loops.add_edge(event.edge, !components.join(event.edge));
            continue;
        }
        const std::optional<rank_t> birth = loops.add_triangle(event);
        const auto [u, v] = filtration.edges[event.edge];
        if (birth) loops.add_bar(result.loops, *birth, event.edge, {u, v, event.root});
        if (options.surfaces)
            (birth ? result.killers : result.candidates).push_back({event.edge, event.root});
    }
    components.finish();
    loops.finish(result.loops);
}

}  // namespace

void follow_links(const Filtration& filtration, const Links& links, const LinkOptions& options, Watch& watch,
                  LinkResult& result) {
    if (options.field == 2)
        follow<true>(filtration, links, options, watch, result);
    else
        follow<false>(filtration, links, options, watch, result);
}

void follow_components(const Filtration& filtration, Watch& watch, LinkResult& result) {
    constexpr rank_t edges_per_check = 65536;
    ComponentBars components(filtration, result.components);
    for (rank_t edge = 0; edge < filtration.edges.size(); ++edge) {
        if (edge % edges_per_check == 0) watch.check();
        components.join(edge);
    }
    components.finish();
}

}  // namespace repgeom

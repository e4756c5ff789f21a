#include "homology_bars.hpp"

#include <algorithm>
#include <numeric>

namespace repgeom {

namespace {

class Presenter {
  public:
    Presenter(const Filtration& filtration, const Bars& bars, const Cocycles* cocycles,
              const RipsOptions& options)
        : filtration_(filtration), bars_(bars), cocycles_(cocycles), options_(options) {}

    RipsDimension present() {
        std::vector<std::size_t> order = kept();
        std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return before(a, b); });
        if (cocycles_ != nullptr) out_.cocycle_starts.push_back(0);
        for (const std::size_t bar : order) add(bar);
        return std::move(out_);
    }

  private:
    bool lives_on(std::size_t bar) const { return bars_.deaths[bar] == no_rank; }

    float birth(std::size_t bar) const {
        return bars_.dim == 0 ? 0.0F : filtration_.lengths[bars_.births[bar]];
    }

    float death(std::size_t bar) const { return filtration_.lengths[bars_.deaths[bar]]; }

    std::vector<std::size_t> kept() const {
        std::vector<std::size_t> kept;
        for (std::size_t bar = 0; bar < bars_.births.size(); ++bar)
            if (lives_on(bar) ||
                (death(bar) > birth(bar) && death(bar) - birth(bar) > options_.min_persistence))
                kept.push_back(bar);
        return kept;
    }

    // Finite bars first; equal ones in the order of their edges, then of their vertices.
    bool before(std::size_t a, std::size_t b) const {
        if (lives_on(a) != lives_on(b)) return lives_on(b);
        if (birth(a) != birth(b)) return birth(a) < birth(b);
        if (bars_.deaths[a] != bars_.deaths[b]) return bars_.deaths[a] < bars_.deaths[b];
        if (bars_.births[a] != bars_.births[b]) return bars_.births[a] < bars_.births[b];
        return a < b;
    }

    void add(std::size_t bar) {
        const auto vertices = static_cast<std::size_t>(bars_.dim) + 1;
        if (lives_on(bar)) {
            out_.infinite.push_back(birth(bar));
            add_simplex(bars_.birth_simplices.data() + bar * vertices, vertices, out_.infinite_simplices);
        } else {
            out_.bars.push_back(birth(bar));
            out_.bars.push_back(death(bar));
            add_simplex(bars_.birth_simplices.data() + bar * vertices, vertices, out_.birth_simplices);
            add_simplex(bars_.death_simplices.data() + bar * (vertices + 1), vertices + 1,
                        out_.death_simplices);
        }
        if (cocycles_ != nullptr) add_cocycle(bar, vertices);
    }

    // Appends the vertices in the caller's numbers, ascending; whether that turns the orientation.
    bool add_simplex(const vertex_t* simplex, std::size_t vertices, std::vector<index_t>& out) const {
        const auto begin = static_cast<std::ptrdiff_t>(out.size());
        bool odd = false;
        for (std::size_t k = 0; k < vertices; ++k) {
            const index_t name = filtration_.names[simplex[k]];
            const auto at = std::upper_bound(out.begin() + begin, out.end(), name);
            odd ^= ((out.end() - at) & 1) != 0;
            out.insert(at, name);
        }
        return odd;
    }

    void add_cocycle(std::size_t bar, std::size_t vertices) {
        const auto from = static_cast<std::size_t>(cocycles_->starts[bar]);
        const auto end = static_cast<std::size_t>(cocycles_->starts[bar + 1]);
        for (std::size_t k = from; k < end; ++k) {
            const bool odd =
                add_simplex(cocycles_->simplices.data() + k * vertices, vertices, out_.cocycle_simplices);
            const index_t value = cocycles_->coefficients[k];
            out_.cocycle_coefficients.push_back(odd ? options_.field - value : value);
        }
        out_.cocycle_starts.push_back(static_cast<index_t>(out_.cocycle_coefficients.size()));
    }

    const Filtration& filtration_;
    const Bars& bars_;
    const Cocycles* cocycles_;
    const RipsOptions& options_;
    RipsDimension out_;
};

// Components as lists of their vertices; the smaller list is moved to the larger one.
class Components {
  public:
    explicit Components(index_t n) : of_(static_cast<std::size_t>(n)), lists_(of_.size()) {
        std::iota(of_.begin(), of_.end(), vertex_t{0});
        for (std::size_t v = 0; v < lists_.size(); ++v) lists_[v] = {static_cast<vertex_t>(v)};
    }

    const std::vector<vertex_t>& of(vertex_t vertex) const { return lists_[of_[vertex]]; }

    void join(vertex_t u, vertex_t v) {
        vertex_t from = of_[u], to = of_[v];
        if (lists_[from].size() > lists_[to].size()) std::swap(from, to);
        for (const vertex_t vertex : lists_[from]) of_[vertex] = to;
        lists_[to].insert(lists_[to].end(), lists_[from].begin(), lists_[from].end());
        lists_[from].clear();
    }

  private:
    std::vector<vertex_t> of_;
    std::vector<std::vector<vertex_t>> lists_;
};

}  // namespace

RipsDimension present(const Filtration& filtration, const Bars& bars, const Cocycles* cocycles,
                      const RipsOptions& options) {
    return Presenter(filtration, bars, cocycles, options).present();
}

Cocycles component_cocycles(const Filtration& filtration, const Bars& components) {
    const std::size_t count = components.births.size();
    std::vector<std::size_t> order(count);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return components.deaths[a] < components.deaths[b]; });
    Components current(filtration.n);
    std::vector<std::vector<vertex_t>> members(count);
    for (const std::size_t bar : order) {
        members[bar] = current.of(components.birth_simplices[bar]);
        if (components.deaths[bar] == no_rank) continue;
        const Edge edge = filtration.edges[components.deaths[bar]];
        current.join(edge.u, edge.v);
    }
    Cocycles out;
    out.starts.push_back(0);
    for (const std::vector<vertex_t>& component : members) {
        out.simplices.insert(out.simplices.end(), component.begin(), component.end());
        out.starts.push_back(static_cast<index_t>(out.simplices.size()));
    }
    out.coefficients.assign(out.simplices.size(), 1);
    return out;
}

}  // namespace repgeom

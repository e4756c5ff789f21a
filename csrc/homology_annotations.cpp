#include "homology_annotations.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace repgeom {

template <bool binary>
Annotations<binary>::Annotations(int field) : field_(field) {
    reset();
}

template <bool binary>
auto Annotations<binary>::entry(class_t c, std::uint32_t coefficient) -> Entry {
    if constexpr (binary)
        return c;
    else
        return Entry{c} << 8 | coefficient;
}

template <bool binary>
class_t Annotations<binary>::class_of(Entry entry) {
    return static_cast<class_t>(binary ? entry : entry >> 8);
}

template <bool binary>
std::uint32_t Annotations<binary>::coefficient_of(Entry entry) {
    return binary ? 1 : static_cast<std::uint32_t>(entry & 255);
}

template <bool binary>
auto Annotations<binary>::give_birth() -> id_t {
    const auto c = static_cast<class_t>(relations_.size());
    relations_.push_back(alive);
    return intern({entry(c, 1)});
}

template <bool binary>
auto Annotations<binary>::combine(id_t a, std::uint32_t factor_a, id_t b, std::uint32_t factor_b) -> id_t {
    a = normal(a);
    b = normal(b);
    if (a == b && (factor_a + factor_b) % field_.prime() == 0) return 0;
    if (b == 0 && factor_a == 1) return a;
    if (a == 0 && factor_b == 1) return b;
    sum_.clear();
    for (const Entry* at = begin(a); at != end(a); ++at) append(*at, factor_a, sum_);
    add(sum_, begin(b), end(b), factor_b, next_);
    const id_t id = intern(next_);
    vectors_[id].checked = deaths_;
    return id;
}

template <bool binary>
class_t Annotations<binary>::kill(id_t id) {
    const Entry last = end(id)[-1];
    const std::uint32_t factor = field_.negative(field_.inverse(coefficient_of(last)));
    sum_.clear();
    for (const Entry* at = begin(id); at + 1 != end(id); ++at) append(*at, factor, sum_);
    relations_[class_of(last)] = intern(sum_);
    ++deaths_;
    return class_of(last);
}

template <bool binary>
void Annotations<binary>::compact(std::vector<id_t>& ids) {
    for (id_t& id : ids) id = normal(id);
    const Entries entries = std::move(entries_);
    const std::vector<Vector> vectors = std::move(vectors_);
    std::vector<id_t> places(vectors.size(), 0);
    reset();
    for (id_t& id : ids) {
        if (id == 0) continue;
        if (places[id] == 0) {
            const auto first = entries.begin() + static_cast<std::ptrdiff_t>(vectors[id].start);
            sum_.assign(first, first + vectors[id].length);
            places[id] = intern(sum_);
        }
        id = places[id];
    }
    for (id_t& relation : relations_)
        if (relation != alive) relation = 0;  // no vector holds the class any more
    most_ = std::max(least_crowd, 2 * (entries_.size() + 8 * vectors_.size()));
}

template <bool binary>
auto Annotations<binary>::resolve(id_t id) -> id_t {
    while (vectors_[id].forward != id) {
        const id_t next = vectors_[id].forward;
        vectors_[id].forward = vectors_[next].forward;
        id = next;
    }
    return id;
}

template <bool binary>
bool Annotations<binary>::is_normal(id_t id) {
    Vector& vector = vectors_[id];
    if (vector.checked == deaths_) return true;
    for (const Entry* at = begin(id); at != end(id); ++at)
        if (dead(class_of(*at))) return false;
    vector.checked = deaths_;
    return true;
}

template <bool binary>
auto Annotations<binary>::normal(id_t id) -> id_t {
    id = resolve(id);
    if (is_normal(id)) return id;
    pending_.push_back(id);
    while (!pending_.empty()) {
        const id_t top = pending_.back();
        if (vectors_[top].forward == top) {
            if (wait_for_relations(top)) continue;
            const id_t form = substitute(top);
            vectors_[top].forward = form;
        }
        pending_.pop_back();
    }
    return resolve(id);
}

// Relations between dead classes go from younger to older ones, so that waiting ends.
template <bool binary>
bool Annotations<binary>::wait_for_relations(id_t id) {
    const std::size_t before = pending_.size();
    for (const Entry* at = begin(id); at != end(id); ++at) {
        if (!dead(class_of(*at))) continue;
        const id_t relation = resolve(relations_[class_of(*at)]);
        if (!is_normal(relation)) pending_.push_back(relation);
    }
    return pending_.size() != before;
}

template <bool binary>
auto Annotations<binary>::substitute(id_t id) -> id_t {
    sum_.clear();
    relevant_.clear();
    std::size_t total = 0;
    for (const Entry* at = begin(id); at != end(id); ++at) {
        if (!dead(class_of(*at))) {
            sum_.push_back(*at);
            continue;
        }
        const id_t relation = resolve(relations_[class_of(*at)]);
        relevant_.push_back({relation, coefficient_of(*at)});
        total += vectors_[relation].length;
    }
    // Merging reads the growing sum again for every relation; spread out, it is read once, but all classes
    // are.
    const bool merges_well =
        relevant_.size() < 3 || relevant_.size() * total / 2 < total + relations_.size() / 32;
    if (merges_well)
        merge_relations();
    else
        scatter_relations();
    const id_t form = intern(sum_);
    vectors_[form].checked = deaths_;
    return form;
}

template <bool binary>
void Annotations<binary>::merge_relations() {
    for (const auto& [relation, factor] : relevant_) {
        add(sum_, begin(relation), end(relation), factor, next_);
        std::swap(sum_, next_);
    }
}

template <bool binary>
void Annotations<binary>::scatter_relations() {
    present_.resize((relations_.size() + 63) / 64, 0);
    if constexpr (!binary) coefficients_.resize(relations_.size(), 0);
    for (const Entry value : sum_) scatter(value, 1);
    for (const auto& [relation, factor] : relevant_)
        for (const Entry* at = begin(relation); at != end(relation); ++at) scatter(*at, factor);
    sum_.clear();
    for (std::size_t i = 0; i < present_.size(); ++i)
        for (std::uint64_t word = std::exchange(present_[i], 0); word != 0; word &= word - 1) {
            const auto c = static_cast<class_t>(i * 64 + static_cast<std::size_t>(std::countr_zero(word)));
            std::uint32_t coefficient = 1;
            if constexpr (!binary) coefficient = std::exchange(coefficients_[c], std::uint8_t{0});
            if (coefficient != 0) sum_.push_back(entry(c, coefficient));
        }
}

template <bool binary>
void Annotations<binary>::scatter(Entry value, std::uint32_t factor) {
    const class_t c = class_of(value);
    const std::uint64_t bit = std::uint64_t{1} << c % 64;
    if constexpr (binary) {
        present_[c / 64] ^= bit;
    } else {
        present_[c / 64] |= bit;
        const std::uint32_t sum = coefficients_[c] + field_.product(coefficient_of(value), factor);
        coefficients_[c] = static_cast<std::uint8_t>(sum % field_.prime());
    }
}

template <bool binary>
void Annotations<binary>::append(Entry value, std::uint32_t factor, Entries& to) const {
    if constexpr (binary)
        to.push_back(value);
    else
        to.push_back(entry(class_of(value), field_.product(coefficient_of(value), factor)));
}

// to = a + factor * b; the factor is not 0.
template <bool binary>
void Annotations<binary>::add(const Entries& a, const Entry* b, const Entry* b_end, std::uint32_t factor,
                              Entries& to) const {
    to.clear();
    auto at = a.begin();
    for (; b != b_end; ++b) {
        const class_t c = class_of(*b);
        while (at != a.end() && class_of(*at) < c) to.push_back(*at++);
        if (at == a.end() || class_of(*at) != c) {
            append(*b, factor, to);
            continue;
        }
        const Entry other = *at++;
        if constexpr (!binary) {
            const std::uint32_t coefficient =
                (coefficient_of(other) + field_.product(coefficient_of(*b), factor)) % field_.prime();
            if (coefficient != 0) to.push_back(entry(c, coefficient));
        } else {
            static_cast<void>(other);
        }
    }
    to.insert(to.end(), at, a.end());
}

template <bool binary>
auto Annotations<binary>::intern(const Entries& vector) -> id_t {
    if (vector.empty()) return 0;
    std::uint64_t hash = vector.size();
    for (const Entry value : vector) {
        hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    const auto short_hash = static_cast<std::uint32_t>(hash);
    std::size_t place = short_hash & (table_.size() - 1);
    for (; table_[place] != 0; place = (place + 1) & (table_.size() - 1)) {
        const id_t id = table_[place];
        if (vectors_[id].hash == short_hash && vectors_[id].length == vector.size() &&
            std::equal(vector.begin(), vector.end(), begin(id)))
            return id;
    }
    const auto id = static_cast<id_t>(vectors_.size());
    vectors_.push_back({entries_.size(), static_cast<std::uint32_t>(vector.size()), id, 0, short_hash});
    entries_.insert(entries_.end(), vector.begin(), vector.end());
    table_[place] = id;
    if (2 * vectors_.size() > table_.size()) grow_table();
    return id;
}

template <bool binary>
void Annotations<binary>::grow_table() {
    table_.assign(2 * table_.size(), 0);
    for (id_t id = 1; id < vectors_.size(); ++id) {
        std::size_t place = vectors_[id].hash & (table_.size() - 1);
        while (table_[place] != 0) place = (place + 1) & (table_.size() - 1);
        table_[place] = id;
    }
}

template <bool binary>
void Annotations<binary>::reset() {
    entries_.clear();
    vectors_.assign(1, Vector{0, 0, 0, 0, 0});
    table_.assign(1024, 0);
}

template class Annotations<true>;
template class Annotations<false>;

}  // namespace repgeom

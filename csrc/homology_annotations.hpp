// Sparse vectors over Z/p whose coordinates are classes of dimension 1. A class is born as a new coordinate
// and dies by a relation, after which every vector is meant modulo that relation.
//
// Equal vectors share one id, and zero is 0. Nothing is rewritten when a class dies: a vector is brought to
// its normal form, in which all classes are alive, when it is next read.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "homology_field.hpp"

namespace repgeom {

using class_t = std::uint32_t;

// binary: over Z/2, where entries need no coefficients.
template <bool binary>
class Annotations {
  public:
    using id_t = std::uint32_t;

    explicit Annotations(int field);

    // The vector of a class that is born now: classes are 0, 1, 2, ... in this order.
    id_t give_birth();

    // The normal form of a times factor_a plus b times factor_b.
    id_t combine(id_t a, std::uint32_t factor_a, id_t b, std::uint32_t factor_b);

    // Makes a vector in normal form, not 0, equal to 0: its youngest class dies, and is returned.
    class_t kill(id_t id);

    // Whether compact() would pay.
    bool crowded() const { return entries_.size() + 8 * vectors_.size() > most_; }

    // Brings the vectors to normal form and forgets all others, which changes the ids.
    void compact(std::vector<id_t>& ids);

    const PrimeField& field() const { return field_; }

  private:
    using Entry = std::conditional_t<binary, std::uint32_t, std::uint64_t>;  // class, then coefficient
    using Entries = std::vector<Entry>;

    struct Vector {
        std::size_t start;
        std::uint32_t length;
        id_t forward;           // its normal form at some later time, or itself
        std::uint32_t checked;  // deaths when it was last seen to be in normal form
        std::uint32_t hash;
    };

    static Entry entry(class_t c, std::uint32_t coefficient);
    static class_t class_of(Entry entry);
    static std::uint32_t coefficient_of(Entry entry);

    const Entry* begin(id_t id) const { return entries_.data() + vectors_[id].start; }
    const Entry* end(id_t id) const { return begin(id) + vectors_[id].length; }
    bool dead(class_t c) const { return relations_[c] != alive; }

    id_t resolve(id_t id);
    bool is_normal(id_t id);
    id_t normal(id_t id);
    bool wait_for_relations(id_t id);
    id_t substitute(id_t id);
    void merge_relations();
    void scatter_relations();
    void scatter(Entry value, std::uint32_t factor);
    void append(Entry value, std::uint32_t factor, Entries& to) const;
    void add(const Entries& a, const Entry* b, const Entry* b_end, std::uint32_t factor, Entries& to) const;
    id_t intern(const Entries& vector);
    void grow_table();
    void reset();

    static constexpr id_t alive = 0xffffffffu;
    static constexpr std::size_t least_crowd = std::size_t{1} << 22;

    PrimeField field_;
    Entries entries_;
    std::vector<Vector> vectors_;
    std::vector<id_t> table_;      // ids by hash; 0 is an empty place
    std::vector<id_t> relations_;  // what a dead class is equal to
    std::uint32_t deaths_ = 0;
    std::size_t most_ = least_crowd;
    std::vector<id_t> pending_;
    Entries sum_, next_;
    std::vector<std::pair<id_t, std::uint32_t>> relevant_;  // relations to be added, and how often
    std::vector<std::uint64_t> present_;                    // all 0 between calls, as are the coefficients
    std::vector<std::uint8_t> coefficients_;
};

extern template class Annotations<true>;
extern template class Annotations<false>;

}  // namespace repgeom

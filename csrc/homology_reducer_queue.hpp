// What a column is made of, and the queue in which its entries wait.
#pragma once

#include <algorithm>
#include <bit>
#include <vector>

#include "homology_field.hpp"
#include "homology_filtration.hpp"
#include "homology_reducer_keys.hpp"

namespace repgeom::reducer {

// A simplex and its coefficient; modulo 2 there is no room for one.
template <typename Key, bool binary>
struct Term {
    Key key;
    std::uint32_t value;
    Term() = default;
    Term(Key k, std::uint32_t v) : key(k), value(v) {}
};
template <typename Key>
struct Term<Key, true> {
    Key key;
    static constexpr std::uint32_t value = 1;
    Term() = default;
    Term(Key k, std::uint32_t) : key(k) {}
};

// Sorts, and adds the coefficients of equal keys; terms with coefficient 0 go.
template <typename Key, bool binary>
void combine(std::vector<Term<Key, binary>>& terms, const PrimeField& field) {
    std::sort(terms.begin(), terms.end(), [](const auto& a, const auto& b) { return a.key < b.key; });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < terms.size();) {
        const Key key = terms[i].key;
        std::uint32_t sum = 0;
        for (; i < terms.size() && terms[i].key == key; ++i) sum = field.add(sum, terms[i].value);
        if (sum != 0) terms[kept++] = {key, sum};
    }
    terms.resize(kept);
}

// A radix heap over keys. No key pushed is below the last one taken.
template <typename Entry>
class TermQueue {
  public:
    using Key = decltype(Entry::key);

    void restart(Key from) {
        for (auto& level : levels_) {
            for (; level.used != 0; level.used &= level.used - 1)
                level.buckets[std::countr_zero(level.used)].clear();
        }
        used_ = 0;
        equal_.clear();
        last_ = from;
    }

    void push(const Entry& entry) {
        const int level = level_of(entry.key ^ last_);
        if (level < 0) return equal_.push_back(entry);
        const int digit = static_cast<int>(entry.key >> (level * digit_bits)) & (n_digits - 1);
        levels_[level].buckets[digit].push_back(entry);
        levels_[level].used |= 1U << digit;
        used_ |= std::uint64_t{1} << level;
    }

    // All entries with the smallest key; empty if there are none.
    std::vector<Entry>& smallest() {
        if (equal_.empty() && used_ != 0) descend();
        return equal_;
    }

  private:
    static constexpr int digit_bits = 4, n_digits = 1 << digit_bits;
    static constexpr int n_levels = (static_cast<int>(sizeof(Key)) * 8 + digit_bits - 1) / digit_bits;

    struct Level {
        std::uint32_t used = 0;
        std::vector<Entry> buckets[n_digits];
    };

    static int level_of(std::uint64_t difference) {
        return (static_cast<int>(std::bit_width(difference)) - 1 + digit_bits) / digit_bits - 1;
    }
    static int level_of(wide_t difference) {
        const std::uint64_t high = static_cast<std::uint64_t>(difference >> 64);
        const int bits = high != 0 ? 64 + static_cast<int>(std::bit_width(high))
                                   : static_cast<int>(std::bit_width(static_cast<std::uint64_t>(difference)));
        return (bits - 1 + digit_bits) / digit_bits - 1;
    }

    void descend() {
        const int at = std::countr_zero(used_);
        Level& level = levels_[at];
        const int digit = std::countr_zero(level.used);
        level.used &= level.used - 1;
        if (level.used == 0) used_ &= used_ - 1;
        auto& bucket = level.buckets[digit];
        last_ = bucket.front().key;
        for (const Entry& entry : bucket) last_ = std::min(last_, entry.key);
        for (const Entry& entry : bucket) push(entry);
        bucket.clear();
    }

    Level levels_[n_levels];
    std::uint64_t used_ = 0;  // levels
    std::vector<Entry> equal_;
    Key last_ = 0;
};

}  // namespace repgeom::reducer

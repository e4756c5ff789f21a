// Known answers of philox4x32-10 from Random123 (tests/kat_vectors).
#include "random.hpp"

#include <set>

#include "check.hpp"

using repgeom::philox4x32;
using repgeom::PhiloxBlock;
using repgeom::random_bits;

int main() {
    CHECK((philox4x32({0, 0, 0, 0}, {0, 0}) == PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    constexpr std::uint32_t ones = 0xffffffff;
    CHECK((philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
           PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
           PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
    static_assert(random_bits(0, 0, 0) == 0xe169c58d6627e8d5);
    CHECK(random_bits(0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88) == 0x94fdccebd16cfe09);

    // Each of the six words matters: no two of these numbers agree.
    std::set<std::uint64_t> seen;
    constexpr std::uint64_t high = std::uint64_t{1} << 32;
    for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, high})
        for (const std::uint64_t stream : {std::uint64_t{0}, std::uint64_t{1}, high})
            for (const std::uint64_t index : {std::uint64_t{0}, std::uint64_t{1}, high})
                seen.insert(random_bits(seed, stream, index));
    CHECK(seen.size() == 27);
    return repgeom::test::failures() != 0;
}

// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw (SC 2011): the number at an
// index depends on seed, stream and index alone, so neither thread count nor batch size changes a bit.
#pragma once

#include <array>

#include "types.hpp"

namespace repgeom {

using PhiloxBlock = std::array<std::uint32_t, 4>;

constexpr PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
                   static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return counter;
}

// The 64 random bits of `index` in `stream` of `seed`.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
    const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
    const PhiloxBlock block =
        philox4x32({low(index), high(index), low(stream), high(stream)}, {low(seed), high(seed)});
    return block[0] | std::uint64_t{block[1]} << 32;
}

}  // namespace repgeom

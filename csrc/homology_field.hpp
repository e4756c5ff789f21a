// Arithmetic modulo a prime.
#pragma once

#include <cstdint>
#include <vector>

#include "types.hpp"

namespace repgeom {

class PrimeField {
  public:
    // Throws for anything but a prime up to 251, whose products fit 16 bits.
    explicit PrimeField(int prime) : prime_(static_cast<std::uint32_t>(prime)) {
        require(prime >= 2 && prime <= 251 && !has_divisor(prime), "coefficients must be a prime up to 251",
                prime);
        inverses_.assign(prime_, 0);
        for (std::uint32_t a = 1; a < prime_; ++a)
            for (std::uint32_t b = 1; b < prime_; ++b)
                if (product(a, b) == 1) inverses_[a] = b;
    }

    std::uint32_t prime() const { return prime_; }
    std::uint32_t add(std::uint32_t a, std::uint32_t b) const { return (a + b) % prime_; }
    std::uint32_t product(std::uint32_t a, std::uint32_t b) const { return a * b % prime_; }
    std::uint32_t negative(std::uint32_t a) const { return a == 0 ? 0 : prime_ - a; }
    std::uint32_t inverse(std::uint32_t a) const { return inverses_[a]; }
    std::uint32_t with_sign(std::uint32_t a, int parity) const { return parity & 1 ? negative(a) : a; }

  private:
    static bool has_divisor(int number) {
        for (int d = 2; d * d <= number; ++d)
            if (number % d == 0) return true;
        return false;
    }

    std::uint32_t prime_;
    std::vector<std::uint32_t> inverses_;
};

}  // namespace repgeom

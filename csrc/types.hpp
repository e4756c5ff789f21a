// Index types, views of caller-owned arrays, and the one way in which the core refuses bad input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tile_kernels.hpp"

namespace repgeom {

enum class Dtype { float64, float32, float16, bfloat16 };

// Rows of `columns` contiguous elements, `row_stride` elements apart. Does not own its memory.
struct MatrixView {
    const void* data = nullptr;
    Dtype dtype = Dtype::float32;
    index_t rows = 0;
    index_t columns = 0;
    index_t row_stride = 0;
};

// Room that is written before it is read (std::make_unique_for_overwrite, which libc++ 14 lacks).
template <typename T>
std::unique_ptr<T[]> uninitialized(std::size_t size) {
    return std::unique_ptr<T[]>(new T[size]);
}

// Throws std::invalid_argument (ValueError in Python) whose text is the rule and the value received.
template <typename Value>
void require(bool condition, std::string_view rule, const Value& value) {
    if (condition) return;
    std::ostringstream text;
    text << rule << ", got " << value;
    throw std::invalid_argument(text.str());
}

}  // namespace repgeom

// SPDX-License-Identifier: BSD-3-Clause
// How the structure of a batch travels between processes. What a worker wrote is checked as any
// bytes from outside: a worker may have lost its mind before it wrote them.
#include <cstring>

#include "data/samples/sample_layout.h"

namespace lockstep::data {
namespace {

constexpr std::size_t kMaxDepth = 64;

class Writer {
 public:
  template <class T>
  void put(const T& value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void put_text(const std::string& text) {
    put<std::uint64_t>(text.size());
    text_ += text;
  }
  void put_layout(const SampleLayout& layout) {
    put(layout.kind);
    put(layout.offset);
    put(layout.bytes);
    if (layout.kind == SampleLayout::Kind::Tensor) {
      put(layout.tensor.scalar_type);
      put(layout.tensor.dimensions);
      for (const auto size : layout.tensor.shape()) put(size);
    }
    put<std::uint64_t>(layout.children.size());
    for (const auto& key : layout.keys) put_text(key);
    for (const auto& child : layout.children) put_layout(child);
  }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::size_t memory_bytes)
      : bytes_(bytes), memory_bytes_(memory_bytes) {}

  SampleLayout layout(std::size_t depth) {
    expect(depth < kMaxDepth, "is too deep");
    SampleLayout result;
    result.kind = get<SampleLayout::Kind>();
    expect(result.kind <= SampleLayout::Kind::Map, "has a part of unknown kind");
    result.offset = get<std::uint64_t>();
    result.bytes = get<std::uint64_t>();
    expect(result.bytes <= memory_bytes_ && result.offset <= memory_bytes_ - result.bytes,
           "lies outside of its memory");
    if (result.kind == SampleLayout::Kind::Tensor) tensor(result);
    const auto count = get<std::uint64_t>();
    expect(count <= bytes_.size(), "has more parts than bytes");
    for (std::uint64_t key = 0; result.kind == SampleLayout::Kind::Map && key < count; ++key) {
      result.keys.push_back(text());
    }
    for (std::uint64_t child = 0; child < count; ++child) {
      result.children.push_back(layout(depth + 1));
    }
    return result;
  }

 private:
  void tensor(SampleLayout& result) {
    auto& tensor = result.tensor;
    tensor.scalar_type = get<std::int32_t>();
    tensor.dimensions = get<std::uint32_t>();
    expect(tensor.scalar_type >= 0 &&
               tensor.scalar_type < static_cast<std::int32_t>(at::ScalarType::NumOptions),
           "has a tensor of unknown type");
    expect(tensor.dimensions <= TensorLayout::kMaxDimensions, "has too many dimensions");
    std::uint64_t room = memory_bytes_ / c10::elementSize(tensor.dtype());
    bool is_empty = false;
    for (std::uint32_t dimension = 0; dimension < tensor.dimensions; ++dimension) {
      const auto size = get<std::int64_t>();
      expect(size >= 0, "has a negative size");
      is_empty = is_empty || size == 0;
      if (size > 1) room /= static_cast<std::uint64_t>(size);
      tensor.sizes[dimension] = size;
    }
    expect(is_empty || (room > 0 && tensor.bytes() <= memory_bytes_ - result.offset),
           "has a tensor that is larger than its memory");
  }
  template <class T>
  T get() {
    expect(bytes_.size() >= sizeof(T), "ends too early");
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  std::string text() {
    const auto count = get<std::uint64_t>();
    expect(count <= bytes_.size(), "ends too early");
    std::string result(reinterpret_cast<const char*>(bytes_.data()), count);
    bytes_ = bytes_.subspan(count);
    return result;
  }
  static void expect(bool condition, const char* what) {
    TORCH_CHECK(condition, "the structure of a batch that a worker wrote ", what);
  }

  std::span<const std::byte> bytes_;
  std::size_t memory_bytes_;
};

}  // namespace

std::string SampleLayout::to_bytes() const {
  Writer writer;
  writer.put_layout(*this);
  return writer.take();
}

SampleLayout SampleLayout::from_bytes(std::span<const std::byte> bytes, std::size_t memory_bytes) {
  return Reader(bytes, memory_bytes).layout(0);
}

}  // namespace lockstep::data

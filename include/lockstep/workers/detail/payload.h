// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// @file
/// Arguments and results of tasks on their way between the processes of a pool.
///
/// Thread-safety: values; one thread at a time uses one of them.

namespace lockstep::workers {

/// @cond what the codecs of the library use

/// Memory that tensors of a payload lie in, as long as anybody needs it.
struct PayloadMemory {
  PayloadMemory() = default;
  virtual ~PayloadMemory() = default;
  PayloadMemory(const PayloadMemory&) = delete;
  PayloadMemory& operator=(const PayloadMemory&) = delete;

  std::byte* data = nullptr;
  std::size_t bytes = 0;
  /// Whose block this is. A writer of the same pool passes the block on instead of a copy.
  const void* pool = nullptr;
  std::optional<std::uint32_t> entry;
  /// A worker may still write to it, if anything but the result leads to it.
  bool is_output = false;
};

/// Collects the bytes of values, and beside them large parts that are copied once, straight to
/// where they go.
class PayloadWriter {
 public:
  static constexpr std::size_t kAlignment = 64;

  struct Part {
    const void* data = nullptr;
    std::size_t bytes = 0;
    std::size_t offset = 0;
    std::shared_ptr<const void> owner;
  };

  explicit PayloadWriter(const void* pool = nullptr) : pool_(pool) {}

  /// The pool whose blocks need no copy.
  [[nodiscard]] const void* pool() const noexcept { return pool_; }

  void write(const void* data, std::size_t bytes) {
    if (bytes != 0) bytes_.append(static_cast<const char*>(data), bytes);
  }
  template <class T>
  void write_value(const T& value) {
    write(&value, sizeof(T));
  }
  void write_text(std::string_view text) {
    write_value<std::uint64_t>(text.size());
    write(text.data(), text.size());
  }
  /// Memory that `owner` keeps; returns where it will lie within the parts.
  std::size_t add_part(const void* data, std::size_t bytes, std::shared_ptr<const void> owner) {
    const auto offset = data_bytes_;
    parts_.push_back({data, bytes, offset, std::move(owner)});
    data_bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
  /// A block of the pool; returns its number among the payload's blocks.
  std::size_t add_block(std::shared_ptr<PayloadMemory> block) {
    blocks_.push_back(std::move(block));
    return blocks_.size() - 1;
  }

  [[nodiscard]] const std::string& bytes() const noexcept { return bytes_; }
  [[nodiscard]] const std::vector<Part>& parts() const noexcept { return parts_; }
  [[nodiscard]] std::size_t data_bytes() const noexcept { return data_bytes_; }
  [[nodiscard]] const std::vector<std::shared_ptr<PayloadMemory>>& blocks() const noexcept {
    return blocks_;
  }

 private:
  const void* pool_;
  std::string bytes_;
  std::vector<Part> parts_;
  std::size_t data_bytes_ = 0;
  std::vector<std::shared_ptr<PayloadMemory>> blocks_;
};

/// Reads in the same order what a `PayloadWriter` wrote.
class PayloadReader {
 public:
  /// `data`: where the parts begin, in `memory`.
  PayloadReader(std::string_view bytes, std::byte* data, std::shared_ptr<PayloadMemory> memory,
                std::vector<std::shared_ptr<PayloadMemory>> blocks)
      : bytes_(bytes), data_(data), memory_(std::move(memory)), blocks_(std::move(blocks)) {}

  [[nodiscard]] std::string_view read(std::size_t bytes) {
    if (bytes > bytes_.size()) throw std::runtime_error("the bytes of a task are damaged");
    const auto found = bytes_.substr(0, bytes);
    bytes_.remove_prefix(bytes);
    return found;
  }
  template <class T>
  [[nodiscard]] T read_value() {
    T value;
    std::memcpy(&value, read(sizeof(T)).data(), sizeof(T));
    return value;
  }
  [[nodiscard]] std::string_view read_text() {
    return read(static_cast<std::size_t>(read_value<std::uint64_t>()));
  }
  /// What has not been read yet.
  [[nodiscard]] std::string_view rest() const noexcept { return bytes_; }
  [[nodiscard]] std::byte* part(std::size_t offset) const noexcept { return data_ + offset; }
  [[nodiscard]] const std::shared_ptr<PayloadMemory>& memory() const noexcept { return memory_; }
  [[nodiscard]] const std::shared_ptr<PayloadMemory>& block(std::size_t number) const {
    return blocks_.at(number);
  }

 private:
  std::string_view bytes_;
  std::byte* data_;
  std::shared_ptr<PayloadMemory> memory_;
  std::vector<std::shared_ptr<PayloadMemory>> blocks_;
};

/// @endcond

}  // namespace lockstep::workers

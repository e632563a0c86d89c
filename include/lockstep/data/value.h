// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep::data {

/// Raw bytes of a sample, as opposed to text.
using Bytes = std::vector<std::byte>;

/// A sample or a batch of any form: a tree with tensors, texts and bytes as leaves. What a dataset
/// returns becomes one of these on its way to the program, and becomes a tensor, `std::tuple`,
/// `std::map` and so on again there (`data/detail/value_codec.h`). A dataset whose samples have no
/// fixed type may return `Value` itself.
///
/// Thread-safety: a value; tensors are shared by copies.
class LOCKSTEP_API Value {
 public:
  using List = std::vector<Value>;
  using Map = std::map<std::string, Value>;

  /// Nothing, as an undefined tensor.
  Value() = default;
  Value(at::Tensor tensor) {  // NOLINT(google-explicit-constructor): a tensor is a value
    if (tensor.defined()) content_ = std::move(tensor);
  }
  Value(std::string text) : content_(std::move(text)) {}    // NOLINT(google-explicit-constructor)
  Value(const char* text) : content_(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  Value(Bytes bytes) : content_(std::move(bytes)) {}        // NOLINT(google-explicit-constructor)
  Value(List children) : content_(std::move(children)) {}   // NOLINT(google-explicit-constructor)
  Value(Map children) : content_(std::move(children)) {}    // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool is_nothing() const { return holds<std::monostate>(); }
  [[nodiscard]] bool is_tensor() const { return holds<at::Tensor>(); }
  [[nodiscard]] bool is_text() const { return holds<std::string>(); }
  [[nodiscard]] bool is_bytes() const { return holds<Bytes>(); }
  [[nodiscard]] bool is_list() const { return holds<List>(); }
  [[nodiscard]] bool is_map() const { return holds<Map>(); }

  /// Throws: `c10::Error` with what there is instead. An undefined tensor for nothing.
  [[nodiscard]] at::Tensor tensor() const;
  [[nodiscard]] const std::string& text() const;
  [[nodiscard]] const Bytes& bytes() const;
  [[nodiscard]] const List& list() const;
  [[nodiscard]] List& list();
  [[nodiscard]] const Map& map() const;
  [[nodiscard]] Map& map();
  /// The child of this name, or number.
  [[nodiscard]] const Value& operator[](const std::string& key) const;
  [[nodiscard]] const Value& operator[](std::size_t number) const;

  /// "Float [3, 2]", "a text", "a list of 3": for messages.
  [[nodiscard]] std::string describe() const;

 private:
  template <class T>
  [[nodiscard]] bool holds() const {
    return std::holds_alternative<T>(content_);
  }

  std::variant<std::monostate, at::Tensor, std::string, Bytes, List, Map> content_;
};

/// A batch of these samples in the shape of one of them: tensors are stacked, texts and bytes
/// become lists.
/// Throws: `c10::Error` naming the place and both forms when two samples differ.
[[nodiscard]] LOCKSTEP_API Value stack(std::vector<Value> samples);

/// The same tree with all tensors cloned.
[[nodiscard]] LOCKSTEP_API Value clone(const Value& value);

/// The same tree with these rows of each tensor, and these elements of each list of texts or bytes.
[[nodiscard]] LOCKSTEP_API Value select_rows(const Value& batch,
                                             const std::vector<std::int64_t>& rows);

}  // namespace lockstep::data

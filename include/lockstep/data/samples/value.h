// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep::data {

/// Raw bytes of a sample, as opposed to text.
using Bytes = std::vector<std::byte>;

namespace detail {
template <class T>
concept CharacterType = std::same_as<T, char> || std::same_as<T, wchar_t> ||
    std::same_as<T, char8_t> || std::same_as<T, char16_t> || std::same_as<T, char32_t>;
}  // namespace detail

/// A number as samples have it: whole numbers of up to 64 bits, float, double, bool. A `char` is
/// neither a number nor a text; `std::int8_t` and `std::uint8_t` are numbers.
template <class T>
concept NumberType = (std::integral<T> && !detail::CharacterType<T> && sizeof(T) <= 8) ||
                     std::same_as<T, float> || std::same_as<T, double>;

namespace detail {

/// The dtype of the same size and kind.
template <NumberType T>
[[nodiscard]] constexpr at::ScalarType dtype_of() {
  constexpr bool is_signed = std::is_signed_v<T>;
  if (std::is_same_v<T, bool>) return at::kBool;
  if (std::is_same_v<T, float>) return at::kFloat;
  if (std::is_same_v<T, double>) return at::kDouble;
  if (sizeof(T) == 1) return is_signed ? at::kChar : at::kByte;
  if (sizeof(T) == 2) return is_signed ? at::kShort : at::kUInt16;
  if (sizeof(T) == 4) return is_signed ? at::kInt : at::kUInt32;
  return is_signed ? at::kLong : at::kUInt64;
}

/// The type of this kind that `at::Scalar` takes and gives, whatever the platform calls it.
template <NumberType T>
using ScalarOf = std::conditional_t<
    std::is_same_v<T, bool>, bool,
    std::conditional_t<std::is_floating_point_v<T>, double,
                       std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>>;

/// Without dimensions.
[[nodiscard]] LOCKSTEP_API at::Tensor tensor_of_number(const at::Scalar& number,
                                                       at::ScalarType dtype);

}  // namespace detail

/// A sample or a batch of any form: a tree with tensors, texts and bytes as leaves; a number is a
/// tensor without dimensions. What a dataset returns becomes one of these on its way to the
/// program, and becomes a tensor, `std::tuple`, `std::map` and so on again there
/// (`data/samples/detail/value_codec.h`). A dataset whose samples have no fixed type may return
/// `Value` itself.
///
/// Thread-safety: a value; tensors are shared by copies.
class LOCKSTEP_API Value {
 public:
  /// Children by number.
  using List = std::vector<Value>;
  /// Children by name.
  using Map = std::map<std::string, Value>;

  /// Nothing, as an undefined tensor.
  Value() = default;
  /// A tensor; an undefined one is nothing.
  Value(at::Tensor tensor) {  // NOLINT(google-explicit-constructor): a tensor is a value
    if (tensor.defined()) content_ = std::move(tensor);
  }
  /// A tensor without dimensions, of the number's type.
  template <NumberType T>
  Value(T number)  // NOLINT(google-explicit-constructor)
      : content_(detail::tensor_of_number(static_cast<detail::ScalarOf<T>>(number),
                                          detail::dtype_of<T>())) {}
  Value(std::nullptr_t) = delete;
  /// A text.
  Value(std::string text) : content_(std::move(text)) {}  // NOLINT(google-explicit-constructor)
  /// A text.
  /// Throws: `c10::Error` for a null pointer.
  Value(const char* text);  // NOLINT(google-explicit-constructor)
  /// Bytes.
  Value(Bytes bytes) : content_(std::move(bytes)) {}  // NOLINT(google-explicit-constructor)
  /// A list of values.
  Value(List children) : content_(std::move(children)) {}  // NOLINT(google-explicit-constructor)
  /// A map of values.
  Value(Map children) : content_(std::move(children)) {}  // NOLINT(google-explicit-constructor)

  /// Whether it holds nothing.
  [[nodiscard]] bool is_nothing() const { return holds<std::monostate>(); }
  /// Whether it is a tensor, or a number.
  [[nodiscard]] bool is_tensor() const { return holds<at::Tensor>(); }
  /// Whether it is a text.
  [[nodiscard]] bool is_text() const { return holds<std::string>(); }
  /// Whether it is bytes.
  [[nodiscard]] bool is_bytes() const { return holds<Bytes>(); }
  /// Whether it has children by number.
  [[nodiscard]] bool is_list() const { return holds<List>(); }
  /// Whether it has children by name.
  [[nodiscard]] bool is_map() const { return holds<Map>(); }

  /// The tensor; an undefined one for nothing.
  /// Throws: `c10::Error` with what there is instead; so do the others.
  [[nodiscard]] at::Tensor tensor() const;
  /// The text.
  [[nodiscard]] const std::string& text() const;
  /// The bytes.
  [[nodiscard]] const Bytes& bytes() const;
  /// The children by number.
  [[nodiscard]] const List& list() const;
  /// The same to be changed.
  [[nodiscard]] List& list();
  /// The children by name.
  [[nodiscard]] const Map& map() const;
  /// The same to be changed.
  [[nodiscard]] Map& map();
  /// The child of this name.
  /// Throws: `c10::Error` where there is none.
  [[nodiscard]] const Value& operator[](const std::string& key) const;
  /// The child of this number.
  /// Throws: `c10::Error` where there is none.
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

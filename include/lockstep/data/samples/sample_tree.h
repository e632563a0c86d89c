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

/// Raw bytes of a sample, as opposed to a string.
using Bytes = std::vector<std::byte>;

namespace detail {
template <class T>
concept CharacterType = std::same_as<T, char> || std::same_as<T, wchar_t> ||
    std::same_as<T, char8_t> || std::same_as<T, char16_t> || std::same_as<T, char32_t>;
}  // namespace detail

/// The types of numbers in samples: whole numbers of up to 64 bits, float, double, bool. A `char`
/// is neither a number nor a string; `std::int8_t` and `std::uint8_t` are numbers.
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

/// A tensor without dimensions.
[[nodiscard]] LOCKSTEP_API at::Tensor tensor_of_number(const at::Scalar& number,
                                                       at::ScalarType dtype);

}  // namespace detail

/// A sample or a batch of any structure: a tree with tensors, strings and bytes as leaves; a number
/// is a tensor without dimensions. What a dataset returns becomes one of these on its way to the
/// program, and becomes a tensor, `std::tuple`, `std::map` and so on again there (`SampleCodec`). A
/// dataset whose samples have no fixed type may return `SampleTree` itself:
///
///     SampleTree::Map{{"image", image}, {"caption", "a cat"}, {"boxes", SampleTree::List{}}}
///
/// Thread-safety: a value; copies share the memory of their tensors.
class LOCKSTEP_API SampleTree {
 public:
  /// Children by number.
  using List = std::vector<SampleTree>;
  /// Children by name.
  using Map = std::map<std::string, SampleTree>;

  /// Nothing, as an undefined tensor.
  SampleTree() = default;
  /// A tensor; an undefined one is nothing.
  SampleTree(at::Tensor tensor) {  // NOLINT(google-explicit-constructor): a tensor is a tree
    if (tensor.defined()) content_ = std::move(tensor);
  }
  /// A tensor without dimensions, of the number's type.
  template <NumberType T>
  SampleTree(T number)  // NOLINT(google-explicit-constructor)
      : content_(detail::tensor_of_number(static_cast<detail::ScalarOf<T>>(number),
                                          detail::dtype_of<T>())) {}
  SampleTree(std::nullptr_t) = delete;
  /// A string.
  SampleTree(std::string string)  // NOLINT(google-explicit-constructor)
      : content_(std::move(string)) {}
  /// A string.
  /// Throws: `c10::Error` for a null pointer.
  SampleTree(const char* string);  // NOLINT(google-explicit-constructor)
  /// Bytes.
  SampleTree(Bytes bytes)  // NOLINT(google-explicit-constructor)
      : content_(std::move(bytes)) {}
  /// A list of trees.
  SampleTree(List children)  // NOLINT(google-explicit-constructor)
      : content_(std::move(children)) {}
  /// A map of trees.
  SampleTree(Map children)  // NOLINT(google-explicit-constructor)
      : content_(std::move(children)) {}

  /// Whether it holds nothing.
  [[nodiscard]] bool is_nothing() const { return holds<std::monostate>(); }
  /// Whether it is a tensor, or a number.
  [[nodiscard]] bool is_tensor() const { return holds<at::Tensor>(); }
  /// Whether it is a string.
  [[nodiscard]] bool is_string() const { return holds<std::string>(); }
  /// Whether it is bytes.
  [[nodiscard]] bool is_bytes() const { return holds<Bytes>(); }
  /// Whether it has children by number.
  [[nodiscard]] bool is_list() const { return holds<List>(); }
  /// Whether it has children by name.
  [[nodiscard]] bool is_map() const { return holds<Map>(); }

  /// The tensor; an undefined one for nothing.
  /// Throws: `c10::Error` that names what there is instead; the members below do the same.
  [[nodiscard]] at::Tensor tensor() const;
  /// The string.
  [[nodiscard]] const std::string& string() const;
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
  [[nodiscard]] const SampleTree& operator[](const std::string& key) const;
  /// The child of this number.
  /// Throws: `c10::Error` where there is none.
  [[nodiscard]] const SampleTree& operator[](std::size_t number) const;

  /// "Float [3, 2]", "a string", "a list of 3": for messages.
  [[nodiscard]] std::string describe() const;

 private:
  template <class T>
  [[nodiscard]] bool holds() const {
    return std::holds_alternative<T>(content_);
  }

  std::variant<std::monostate, at::Tensor, std::string, Bytes, List, Map> content_;
};

/// A batch of these samples with the structure of one of them: tensors are stacked, strings and
/// bytes become lists.
/// Throws: `c10::Error` that names the part and both structures when two samples differ.
[[nodiscard]] LOCKSTEP_API SampleTree stack(std::vector<SampleTree> samples);

/// The same tree with all tensors cloned.
[[nodiscard]] LOCKSTEP_API SampleTree clone(const SampleTree& tree);

/// The same tree with these rows of each tensor, and these elements of each list of strings
/// or bytes.
[[nodiscard]] LOCKSTEP_API SampleTree select_rows(const SampleTree& batch,
                                                  const std::vector<std::int64_t>& rows);

}  // namespace lockstep::data

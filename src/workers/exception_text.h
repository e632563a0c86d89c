// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cxxabi.h>

#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>

namespace lockstep::workers {

/// Type of the exception that is being handled, as "std::runtime_error". Call it in a catch block
/// only.
[[nodiscard]] inline std::string current_exception_type() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (type == nullptr) return {};
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> name(
      abi::__cxa_demangle(type->name(), nullptr, nullptr, &status), std::free);
  std::string text = status == 0 ? name.get() : type->name();
  // What std::throw_with_nested makes of a type.
  constexpr std::string_view kNested = "std::_Nested_exception<";
  if (text.starts_with(kNested) && text.ends_with('>')) {
    text = text.substr(kNested.size(), text.size() - kNested.size() - 1);
  }
  return text;
}

/// What an exception says, by `text_of` a `std::exception`, and behind it what those say that it
/// was thrown because of (`std::throw_with_nested`).
template <class TextOf>
[[nodiscard]] std::string text_with_causes(const std::exception& error, const TextOf& text_of,
                                           int depth = 0) {
  constexpr int kDeepest = 16;
  std::string text = text_of(error);
  try {
    if (depth < kDeepest) std::rethrow_if_nested(error);
  } catch (const std::exception& cause) {
    text += ", because of " + current_exception_type() + ": " +
            text_with_causes(cause, text_of, depth + 1);
  } catch (...) {
    text += ", because of an exception of unknown type";
  }
  return text;
}

/// The same of the exception that is being handled. Call it in a catch block only.
template <class TextOf>
[[nodiscard]] std::string current_exception_text(const TextOf& text_of) {
  try {
    throw;
  } catch (const std::exception& error) {
    return text_with_causes(error, text_of);
  } catch (...) {
    return "an exception of unknown type";
  }
}
[[nodiscard]] inline std::string current_exception_text() {
  return current_exception_text([](const std::exception& error) { return error.what(); });
}

}  // namespace lockstep::workers

// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <exception>
#include <string>
#include <vector>

namespace lockstep::testing {

inline std::string text_of(const std::exception_ptr& error) {
  if (!error) return "";
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& caught) {
    return caught.what_without_backtrace();
  } catch (const std::exception& caught) {
    return caught.what();
  }
}

/// `errors`: one a rank.
inline void expect_no_errors(const std::vector<std::exception_ptr>& errors) {
  for (std::size_t rank = 0; rank < errors.size(); ++rank) {
    EXPECT_EQ(text_of(errors[rank]), "") << "on rank " << rank;
  }
}

/// `action` throws a `c10::Error` with this part.
template <typename Action>
void expect_refusal(const Action& action, const std::string& part) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one with: " << part;
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

template <typename Expected>
void expect_error(const std::exception_ptr& error, const std::string& part) {
  ASSERT_NE(error, nullptr) << "expected an error with: " << part;
  EXPECT_THROW(std::rethrow_exception(error), Expected) << text_of(error);
  EXPECT_NE(text_of(error).find(part), std::string::npos) << text_of(error);
}

}  // namespace lockstep::testing

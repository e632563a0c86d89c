// SPDX-License-Identifier: BSD-3-Clause
// What errors say: the sample that is to blame, the option that helps, and why in the end.
#include <sstream>
#include <stdexcept>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using LoaderTextsTest = NothingLeftBehind;

std::vector<DataLoaderOptions> all_workers() {
  return {options_with(0), options_with(1), options_with(3),
          options_with(2).kind(WorkerKind::Thread)};
}

// A dataset of what a function makes of an index.
template <class Make>
struct MadeBy {
  Make make;
  auto get(std::size_t index) { return make(index); }
  std::size_t size() const { return 8; }
};
template <class Make>
MadeBy(Make) -> MadeBy<Make>;

template <class Make>
void expect_blame(const Make& make, std::int64_t sample, const std::string& text) {
  for (const auto& options : all_workers()) {
    DataLoader loader(MadeBy{make}, options);
    const auto error = error_of_pass(loader);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->sample_index(), sample) << error->what();
    EXPECT_NE(error->original_message().find(text), std::string::npos) << error->what();
  }
}

TEST_F(LoaderTextsTest, SampleThatIsUnlikeTheOthersIsToBlame) {
  const auto is_odd = [](std::size_t index) { return index == 5; };
  expect_blame([=](std::size_t index) { return std::vector<std::string>(is_odd(index) ? 3 : 2); },
               5, "a list of 3; in the first of the batch it is a list of 2");
  expect_blame(
      [=](std::size_t index) {
        return std::make_pair(std::string("t"), torch::ones({is_odd(index) ? 3 : 2}));
      },
      5, "the sample's 1 is Float [3]; in the first of the batch it is Float [2]");
  expect_blame(
      [=](std::size_t index) {
        std::map<std::string, std::string> parts{{"a", ""}};
        if (is_odd(index)) parts.emplace("b", "");
        return parts;
      },
      5, "a map with 'a' 'b'");
  expect_blame(
      [=](std::size_t index) {
        return is_odd(index) ? SampleTree("text") : SampleTree(torch::ones({2}));
      },
      5, "a string; in the first of the batch it is Float [2]");
  // Rows of a batch, as before.
  expect_blame([=](std::size_t index) { return std::vector<int>(is_odd(index) ? 3 : 2); }, 5,
               "a list of 3; in the first sample it was a list of 2");
}

TEST_F(LoaderTextsTest, NestedExceptionsKeepTheInnerText) {
  Numbers dataset{8};
  dataset.before = [](std::size_t) {
    try {
      try {
        TORCH_CHECK(false, "the disk is gone");
      } catch (...) {
        std::throw_with_nested(std::invalid_argument("cannot read a.jpg"));
      }
    } catch (...) {
      std::throw_with_nested(std::runtime_error("no picture"));
    }
  };
  for (const auto& options : all_workers()) {
    DataLoader loader(dataset, options);
    const auto error = error_of_pass(loader);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->exception_type(), "std::runtime_error");
    EXPECT_EQ(error->original_message(),
              "no picture, because of std::invalid_argument: cannot read a.jpg, because of "
              "c10::Error: the disk is gone");
  }
}

TEST_F(LoaderTextsTest, TimeoutErrorsNameTheOption) {
  Numbers dataset{8};
  dataset.before = [](std::size_t index) {
    if (index == 5) std::this_thread::sleep_for(std::chrono::seconds(600));
  };
  // The worker must be ready, and the first batch there, within the timeout.
  expect_with_some_limit([&](std::chrono::milliseconds timeout) -> std::string {
    DataLoader loader(dataset, options_with(1).timeout(timeout));
    const auto error = error_of_pass(loader);
    if (!error) return "no error";
    EXPECT_EQ(error->failure(), WorkerFailure::TimedOut);
    if (error->sample_index() != 5) return error->what();
    std::ostringstream limit;
    limit << std::chrono::duration<double>(timeout).count() << " s (DataLoaderOptions::timeout)";
    EXPECT_NE(error->original_message().find(limit.str()), std::string::npos) << error->what();
    return "";
  });
}

}  // namespace
}  // namespace lockstep::data

// SPDX-License-Identifier: BSD-3-Clause
// What event files are made of: checksums, records, buckets.
#include "training/tensorboard/event_record.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "support/event_files.h"
#include "training/tensorboard/crc32c.h"
#include "training/tensorboard/histogram.h"
#include "training/tensorboard/utf8.h"

namespace lockstep::training {
namespace {

using testing::events_in;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(Crc32c, HasTheValuesOfTheStandard) {
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\0'))), 0x8A9136AAU);
  EXPECT_EQ(crc32c(bytes_of(std::string(32, '\xFF'))), 0x62A8AB43U);
  EXPECT_EQ(crc32c(bytes_of(ascending)), 0x46DD794EU);
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xE3069283U);
  EXPECT_EQ(crc32c({}), 0U);
}

TEST(Crc32c, TablesAndTheInstructionAgree) {
  std::string text;
  for (std::uint32_t i = 0; i < 300; ++i) text += static_cast<char>(i * 2654435761U >> 24);
  for (std::size_t begin = 0; begin < 9; ++begin) {
    for (std::size_t size = 0; begin + size <= text.size(); ++size) {
      const auto part = bytes_of(text).subspan(begin, size);
      ASSERT_EQ(crc32c(part), crc32c_by_tables(part)) << begin << " " << size;
    }
  }
}

TEST(Utf8, KnowsWhatIsCharacters) {
  for (const char* text : {"", "loss/train", "\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
                           "\xED\x9F\xBF", "\xEF\xBF\xBD", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
    EXPECT_EQ(as_utf8(text), text);
  }
  for (const char* text : {"\x80", "a\xFF", "\xC3", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80",
                           "\xF0\x80\x80\xAF", "\xF4\x90\x80\x80", "\xE2\x82", "\xC3("}) {
    EXPECT_FALSE(is_utf8(text)) << text;
    EXPECT_TRUE(is_utf8(as_utf8(text)));
  }
  EXPECT_EQ(as_utf8("a\xFF\xC3\xA4"), "a\xEF\xBF\xBD\xC3\xA4");
}

/// The only event in the record, behind the wall time.
std::string event_in(const std::string& record) {
  const auto events = events_in(record);
  EXPECT_EQ(events.size(), 1U);
  EXPECT_EQ(events.at(0).substr(0, 9), "\x09" + little(std::bit_cast<std::uint64_t>(1.5)));
  return events.at(0).substr(9);
}

std::string scalar_event(std::int64_t step, const std::string& tag, double value,
                         bool is_double = false) {
  std::string record;
  put_scalar_event(record, {1.5, step}, tag, value, is_double);
  if (tag.size() <= kShortTag) {
    ScalarBuffer buffer;
    put_scalar_event(buffer, {1.5, step}, tag, value, is_double);
    EXPECT_EQ(std::string(buffer.data(), buffer.size()), record);
  }
  return event_in(record);
}

// Literals with zero bytes.
using std::string_literals::operator""s;

TEST(EventRecord, HasTheBytesOfPythonsWriter) {
  std::string record;
  put_version_event(record, 1.5);
  EXPECT_EQ(event_in(record),
            "\x1A\x0D"
            "brain.Event:2\x52\x2E\x0A\x2C"
            "tensorboard.summary.writer.event_file_writer");
  EXPECT_EQ(scalar_event(3, "loss/train", 0.5),
            "\x10\x03\x2A\x13\x0A\x11\x0A\x0Aloss/train\x15\0\0\0\x3F"s);
  record.clear();
  put_text_event(record, {1.5, 1}, "t", "hi");
  EXPECT_EQ(event_in(record),
            "\x10\x01\x2A\x2A\x0A\x28\x0A\x0Et/text_summary\x42\x0C\x08\x07\x12\x04\x12\x02\x08\x01"
            "\x42\x02hi\x4A\x08\x0A\x06\x0A\x04text");
}

TEST(EventRecord, LeavesOutTheStepZeroAndHasNegativeSteps) {
  EXPECT_EQ(scalar_event(0, "a", 0),
            "\x2A\x0A\x0A\x08\x0A\x01"
            "a\x15\0\0\0\0"s);
  EXPECT_EQ(scalar_event(-1, "a", 0),
            "\x10\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\x2A\x0A\x0A\x08\x0A\x01"
            "a\x15\0\0\0\0"s);
  EXPECT_EQ(scalar_event(std::numeric_limits<std::int64_t>::max(), "a", 0).substr(0, 10),
            "\x10\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F"s);
}

TEST(EventRecord, ADoubleBeyondFloatsIsInfinite) {
  const std::string infinite = scalar_event(0, "a", HUGE_VAL);
  EXPECT_EQ(scalar_event(0, "a", 1e300), infinite);
  EXPECT_EQ(scalar_event(0, "a", -1e300), scalar_event(0, "a", -HUGE_VAL));
  EXPECT_NE(scalar_event(0, "a", 1e300, true), scalar_event(0, "a", HUGE_VAL, true));
}

TEST(EventRecord, TagsOfAnyLengthFit) {
  for (const std::size_t size : {1U, 100U, 127U, 128U, 199U, 200U, 201U, 5000U}) {
    for (const bool is_double : {false, true}) {
      const std::string tag(size, 'x');
      const std::string event =
          scalar_event(std::numeric_limits<std::int64_t>::min(), tag, 1, is_double);
      const auto values = testing::values_in({std::string(9, '\0').replace(0, 1, "\x09") + event});
      ASSERT_EQ(values.size(), 1U);
      EXPECT_EQ(values[0].tag, tag);
    }
  }
}

/// Buckets as they are defined, by search: no index, no merging.
std::vector<double> default_limits() {
  std::vector<double> positive;
  for (double limit = 1e-12; limit < 1e20; limit *= 1.1) positive.push_back(limit);
  std::vector<double> limits;
  for (auto limit = positive.rbegin(); limit != positive.rend(); ++limit) limits.push_back(-*limit);
  limits.push_back(0);
  limits.insert(limits.end(), positive.begin(), positive.end());
  return limits;
}

/// How many of the values are in the bucket that ends at each limit, by search.
std::vector<std::pair<double, double>> searched(const std::vector<double>& values) {
  const auto limits = default_limits();
  std::vector<std::pair<double, double>> counts;
  for (const double limit : limits) counts.emplace_back(limit, 0);
  double beyond = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    auto at = std::upper_bound(limits.begin(), limits.end(), value);
    if (value == limits.back()) --at;
    if (at == limits.end()) {
      ++beyond;
    } else {
      ++counts[static_cast<std::size_t>(at - limits.begin())].second;
    }
  }
  if (beyond > 0) counts.emplace_back(*std::max_element(values.begin(), values.end()), beyond);
  std::erase_if(counts, [](const auto& one) { return one.second == 0; });
  return counts;
}

HistogramValues histogram_of(const std::vector<double>& values) {
  BucketCounts counts;
  counts.add(values);
  return counts.result();
}

TEST(Histogram, FindsTheBucketsThatASearchFinds) {
  std::vector<double> values;
  for (const double limit : default_limits()) {
    for (const double value :
         {limit, std::nextafter(limit, 1e300), std::nextafter(limit, -1e300)}) {
      values.push_back(value);
    }
  }
  std::uint64_t state = 7;
  for (int i = 0; i < 100000; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    const double exponent = static_cast<double>(state >> 40) / double{1 << 24} * 40 - 15;
    values.push_back(((state & 1U) != 0 ? 1 : -1) * std::pow(10, exponent));
  }
  for (const double value : {0.0, -0.0, 5e-324, -5e-324, 1e300, -1e300, 1e20, 1e-12}) {
    values.push_back(value);
  }
  const auto found = histogram_of(values);
  std::vector<std::pair<double, double>> taken;
  for (std::size_t i = 0; i < found.limits.size(); ++i) {
    if (found.counts[i] > 0) taken.emplace_back(found.limits[i], found.counts[i]);
  }
  EXPECT_EQ(taken, searched(values));
  EXPECT_EQ(found.count, static_cast<std::int64_t>(values.size()));
}

TEST(Histogram, EmptyBucketsInARowAreOne) {
  const auto found = histogram_of({1e-3, 1e-3, 5, -2});
  // An empty one in front of each of the three, and the three.
  EXPECT_EQ(found.counts, (std::vector<double>{0, 1, 0, 2, 0, 1}));
  const auto limits = default_limits();
  const auto end_of = [&](double value) {
    return std::upper_bound(limits.begin(), limits.end(), value);
  };
  EXPECT_EQ(found.limits, (std::vector<double>{*(end_of(-2) - 1), *end_of(-2), *(end_of(1e-3) - 1),
                                               *end_of(1e-3), *(end_of(5) - 1), *end_of(5)}));
  EXPECT_EQ(found.min, -2);
  EXPECT_EQ(found.max, 5);
  EXPECT_DOUBLE_EQ(found.sum, 3.002);
  EXPECT_DOUBLE_EQ(found.sum_squares, 29.000002);
}

TEST(Histogram, TakesEveryTypeAndLayout) {
  const at::Tensor numbers = torch::tensor({0, 1, 1, 0, 1, 1}).reshape({2, 3});
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kByte, at::kChar,
                          at::kShort, at::kInt, at::kLong, at::kBool}) {
    const auto counts = count_buckets(numbers.to(type).t()).result();
    EXPECT_EQ(counts.counts, (std::vector<double>{0, 2, 0, 4})) << type;
  }
  // More than are converted at a time.
  const auto many = count_buckets(torch::arange(100001, at::kDouble)).result();
  EXPECT_EQ(many.count, 100001);
  EXPECT_EQ(many.max, 100000);
  EXPECT_DOUBLE_EQ(many.sum, 5000050000.0);
}

TEST(Histogram, CountsWhatIsNotFiniteApart) {
  const double infinity = std::numeric_limits<double>::infinity();
  const auto counts = count_buckets(torch::tensor({1.0, infinity, std::nan(""), -infinity, 2.0}));
  EXPECT_EQ(counts.nonfinite(), 3);
  EXPECT_EQ(counts.finite(), 2);
  EXPECT_EQ(counts.result().min, 1);
  EXPECT_EQ(counts.result().max, 2);
  EXPECT_EQ(counts.result().sum, 3);
}

TEST(Histogram, NumbersBeyondAllLimitsHaveBuckets) {
  const auto found = histogram_of({-1e30, 1e25});
  EXPECT_EQ(found.limits.front(), -1e30);
  EXPECT_EQ(found.limits.back(), 1e25);
  EXPECT_EQ(found.counts, (std::vector<double>{0, 1, 0, 1}));
}

}  // namespace
}  // namespace lockstep::training

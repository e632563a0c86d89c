// SPDX-License-Identifier: BSD-3-Clause
// Files that readers elsewhere took, or died of: each must be refused, with the place and the
// reason.
#include <gtest/gtest.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <string>
#include <vector>

#include "support/raw_safetensors.h"

namespace lockstep::training {
namespace {

struct Hostile {
  const char* name;
  std::string bytes;
  const char* reason;
};

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":" + offsets + "}";
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets,
                std::size_t data) {
  return raw_safetensors("{" + entry("a", dtype, shape, offsets) + "}", std::string(data, '\1'));
}

std::string deep(int depth) {
  std::string text = "{\"a\":";
  for (int i = 0; i < depth; ++i) text += "[";
  return raw_safetensors(text);
}

std::vector<Hostile> hostile_files() {
  const std::string f32 = entry("a", "F32", "[1]", "[0,4]");
  const std::string four(4, '\0');
  return {
      {"Empty", "", "expected the length of the header"},
      {"SevenBytes", "1234567", "expected the length of the header"},
      {"LengthOf2To64Minus1", little(~std::uint64_t{0}) + "{}", "a header of at most 100000000"},
      {"LengthThatWrapsWithEight", little(~std::uint64_t{0} - 7) + "{}", "at most 100000000"},
      {"HeaderAboveTheCap", little(100'000'001) + "{}", "a header of at most 100000000"},
      {"HeaderLongerThanTheFile", little(3) + "{}", "at most 2 bytes, which is all that follows"},
      {"NoHeader", little(0), "begins with {, found nothing"},
      {"LeadingBlank", raw_safetensors(" {}"), "begins with {, found ' '"},
      {"LeadingMark", raw_safetensors("\xEF\xBB\xBF{}"), "begins with {"},
      {"Array", raw_safetensors("[]"), "begins with {"},
      {"CutShort", raw_safetensors(R"({"a":)"), "in the header JSON"},
      {"TwoObjects", raw_safetensors("{}{}"), "in the header JSON"},
      {"ZeroByteBehind", raw_safetensors(std::string("{}\0{", 4)), "a zero byte"},
      {"BadUtf8", raw_safetensors("{\"\xFF\":1}"), "in the header JSON"},
      {"LoneSurrogate", raw_safetensors(R"({"\ud800":1})"), "in the header JSON"},
      {"Comment", raw_safetensors("{/**/}"), "in the header JSON"},
      {"DepthBomb", deep(100'000), "expected in the header 'a': an object, found an array"},
      {"DepthBombInAnUnknownField", raw_safetensors(R"({"a":{"x":)" + std::string(100'000, '[')),
       "to a depth of 8"},
      {"DuplicateName", raw_safetensors("{" + f32 + "," + f32 + "}", four), "'a' a second time"},
      {"DuplicateField",
       raw_safetensors(R"({"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}})",
                       four),
       "'a' / 'dtype' a second time"},
      {"DuplicateMetadata", raw_safetensors(R"({"__metadata__":{"a":"b","a":"c"}})"),
       "a second time"},
      {"TwoMetadata", raw_safetensors(R"({"__metadata__":{},"__metadata__":{}})"), "a second time"},
      {"LongName", raw_safetensors("{\"" + std::string(5000, 'n') + "\":1}"),
       "names of at most 4096 bytes"},
      {"NumberAsMetadata", raw_safetensors(R"({"__metadata__":{"a":1}})"), "a string, found 1"},
      {"TensorThatIsNoObject", raw_safetensors(R"({"a":1})"), "'a': an object, found 1"},
      {"NoDtype", raw_safetensors(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", four), "a dtype"},
      {"NoShape", raw_safetensors(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", four),
       "a shape"},
      {"NoOffsets", raw_safetensors(R"({"a":{"dtype":"F32","shape":[1]}})", four),
       "two data_offsets"},
      {"OneOffset", one("F32", "[1]", "[0]", 4), "two data_offsets, found 1"},
      {"ThreeOffsets", one("F32", "[1]", "[0,4,8]", 4), "two data_offsets, found 3"},
      {"UnknownDtype", one("F33", "[1]", "[0,4]", 4), "a dtype of the format, found 'F33'"},
      {"DtypeThatLibTorchLacks", one("F6_E2M3", "[4]", "[0,3]", 3), "a dtype that LibTorch has"},
      {"DtypeAsNumber", raw_safetensors(R"({"a":{"dtype":5}})"), "the name of a dtype, found 5"},
      {"DtypeInAnArray", raw_safetensors(R"({"a":{"dtype":["F32"]}})"), "the name of a dtype"},
      {"NegativeSize", one("F32", "[-1]", "[0,4]", 4), "found '-1'"},
      {"Fraction", one("F32", "[1.0]", "[0,4]", 4), "found '1.0'"},
      {"Exponent", one("F32", "[1e0]", "[0,4]", 4), "found '1e0'"},
      {"MoreThan64Bits", one("F32", "[18446744073709551617]", "[0,4]", 4), "an array of numbers"},
      {"NestedShape", one("F32", "[[1]]", "[0,4]", 4), "an array of numbers"},
      {"ShapeAsText", one("F32", "\"1\"", "[0,4]", 4), "an array of numbers"},
      {"ShapeThatWrapsToZero", one("F32", "[4294967296,4294967296]", "[0,0]", 0),
       "a shape of less than 2^63 numbers"},
      {"ShapeThatWrapsToFour", one("U8", "[4611686018427387905,4]", "[0,4]", 4),
       "a shape of less than 2^63 numbers"},
      {"BytesThatWrap", one("F64", "[2305843009213693952]", "[0,0]", 0),
       "a shape of less than 2^63 bits"},
      {"HugeAndEmpty", one("F32", "[9223372036854775808,0]", "[0,0]", 0),
       "a shape of less than 2^63 numbers"},
      {"ManyDimensions",
       one(
           "F32",
           "[1" +
               [] {
                 std::string more;
                 for (int i = 0; i < 64; ++i) more += ",1";
                 return more;
               }() +
               "]",
           "[0,4]", 4),
       "at most 64 numbers"},
      {"HalfAByte", one("F4", "[1]", "[0,1]", 1), "a last dimension of whole bytes"},
      {"ScalarOfHalfAByte", one("F4", "[]", "[0,1]", 1), "a last dimension of whole bytes"},
      {"BeginBehindEnd", one("F32", "[1]", "[4,0]", 4), "data_offsets that do not fall"},
      {"EndBehindTheFile", one("F32", "[2]", "[0,8]", 4), "data_offsets of at most 4"},
      {"EndOf2To64", one("F32", "[1]", "[18446744073709551612,18446744073709551615]", 4),
       "data_offsets of at most 4"},
      {"SizeThatDoesNotFitTheShape", one("F32", "[2]", "[0,4]", 4),
       "8 bytes for its shape, found 4"},
      {"Hole",
       raw_safetensors("{" + f32 + "," + entry("b", "U8", "[1]", "[5,6]") + "}",
                       std::string(6, '\0')),
       "'b' no gap and no overlap: data that begins at byte 4 of the data, found 5"},
      {"Overlap",
       raw_safetensors("{" + f32 + "," + entry("b", "U8", "[2]", "[3,5]") + "}",
                       std::string(5, '\0')),
       "'b' no gap and no overlap"},
      {"SameBytesTwice",
       raw_safetensors("{" + f32 + "," + entry("b", "F32", "[1]", "[0,4]") + "}", four),
       "no gap and no overlap"},
      {"EmptyTensorInsideAnother",
       raw_safetensors("{" + f32 + "," + entry("b", "F32", "[0]", "[2,2]") + "}", four),
       "no gap and no overlap"},
      {"FirstByteOfNoTensor", one("U8", "[1]", "[1,2]", 2), "no gap and no overlap"},
      {"BytesBehind", one("U8", "[1]", "[0,1]", 3), "the last tensor, found 2 more bytes"},
      {"BytesOfNoTensor", raw_safetensors("{}", "x"), "the last tensor, found 1 more bytes"},
      {"BoolOfTwo", raw_safetensors("{" + entry("a", "BOOL", "[2]", "[0,2]") + "}", "\1\2"),
       "0 or 1 in the tensor 'a' of dtype BOOL, found 2"},
  };
}

class HostileSafetensors : public ::testing::TestWithParam<Hostile> {};
INSTANTIATE_TEST_SUITE_P(Files, HostileSafetensors, ::testing::ValuesIn(hostile_files()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(HostileSafetensors, IsRefusedWithTheReason) {
  const TemporaryFolder folder;
  write_bytes(folder / "a.safetensors", GetParam().bytes);
  for (const bool is_mapped : {false, true}) {
    try {
      static_cast<void>(load_safetensors(folder / "a.safetensors",
                                         LoadSafetensorsOptions().memory_mapped(is_mapped)));
      ADD_FAILURE() << "no error";
    } catch (const c10::Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(GetParam().reason), std::string::npos) << text;
      EXPECT_NE(text.find("a.safetensors: at byte "), std::string::npos) << text;
      EXPECT_LT(text.substr(0, text.find('\n')).size(), 1000U);
    }
  }
}

TEST(SafetensorsReader, TakesWhatTheReferenceTakes) {
  const TemporaryFolder folder;
  const auto count = [&](const std::string& bytes) {
    write_bytes(folder / "a", bytes);
    return load_safetensors(folder / "a").size();
  };
  EXPECT_EQ(count(raw_safetensors("{}")), 0U);
  EXPECT_EQ(count(raw_safetensors("{}   \n")), 0U);
  EXPECT_EQ(count(raw_safetensors(R"({"__metadata__":{}})")), 0U);
  // Fields of a later version of the format.
  EXPECT_EQ(count(raw_safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],)"
                                  R"("x":{"y":[null,-1.5,"z"]}}})",
                                  "\1")),
            1U);
  // In any order, and an empty one between two others.
  EXPECT_EQ(count(raw_safetensors("{" + entry("b", "U8", "[2]", "[1,3]") + "," +
                                      entry("c", "F64", "[3,0]", "[1,1]") + "," +
                                      entry("a", "U8", "[1]", "[0,1]") + "}",
                                  "123")),
            3U);
}

TEST(SafetensorsReader, FindsAFileThatWasCutAtAnyByte) {
  const TemporaryFolder folder;
  save_safetensors(folder / "whole", {{"a", torch::arange(5)}, {"b", torch::ones({3})}},
                   {{"format", "pt"}});
  const std::string whole = read_bytes(folder / "whole");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    write_bytes(folder / "cut", whole.substr(0, length));
    EXPECT_THROW(static_cast<void>(load_safetensors(folder / "cut")), c10::Error) << length;
  }
}

// A flipped bit of a header is an error, or changes a name, a text of the metadata, or a dtype or
// shape of the same size; never where the bytes lie.
TEST(SafetensorsReader, AFlippedBitNeverMovesData) {
  const TemporaryFolder folder;
  save_safetensors(folder / "whole", {{"a", torch::arange(5)}, {"b", torch::ones({3})}});
  const auto before = read_safetensors_header(folder / "whole");
  std::string bytes = read_bytes(folder / "whole");
  const auto data = bytes.size() - 5 * 8 - 3 * 4;
  for (std::size_t bit = 0; bit < 8 * data; ++bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    write_bytes(folder / "flipped", bytes);
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    try {
      const auto header = read_safetensors_header(folder / "flipped");
      ASSERT_EQ(header.tensors.size(), 2U) << bit;
      for (const auto& [name, tensor] : header.tensors) {
        const auto& expected = before.tensors.at(tensor.offset == data ? "a" : "b");
        EXPECT_EQ(tensor.offset, expected.offset) << bit;
        EXPECT_EQ(tensor.bytes, expected.bytes) << bit;
      }
    } catch (const c10::Error&) {
    }
  }
}

TEST(SafetensorsReader, OnlyOrdinaryFilesAreRead) {
  const TemporaryFolder folder;
  EXPECT_THROW(static_cast<void>(read_safetensors_header(folder.path())), c10::Error);
  EXPECT_THROW(static_cast<void>(read_safetensors_header("/dev/zero")), c10::Error);
  EXPECT_THROW(static_cast<void>(read_safetensors_header(folder / "none")), c10::Error);
}

}  // namespace
}  // namespace lockstep::training

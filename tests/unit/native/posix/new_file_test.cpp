// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/new_file.h"

#include "support/reader_test_support.h"

namespace lockstep::native {
namespace {

using data::ByteVector;
using data::text_bytes;

class NewFileTest : public data::ReaderTest, public ::testing::WithParamInterface<NewFile::Kind> {
 protected:
  static void put(NewFile& file, std::uint64_t offset, const std::string& text) {
    file.write(offset, std::as_bytes(std::span(text)));
  }
};

TEST_P(NewFileTest, AppearsWholeOrNotAtAll) {
  write("name", text_bytes("before"));
  {
    NewFile file(path("name"), GetParam());
    put(file, 3, "lo");
    put(file, 0, "hel");
    EXPECT_EQ(read("name"), text_bytes("before"));
    file.publish();
    EXPECT_EQ(read("name"), text_bytes("hello"));
  }
  EXPECT_EQ(read("name"), text_bytes("hello"));
  {
    NewFile file(path("name"), GetParam());
    put(file, 0, "given up");
  }
  EXPECT_EQ(read("name"), text_bytes("hello"));
  EXPECT_EQ(files(), std::vector<std::string>{"name"});
  std::filesystem::create_directory(path("folder"));
  NewFile file(path("folder"), GetParam());
  EXPECT_THROW(file.publish(), std::system_error);
}

TEST_P(NewFileTest, LeavesNothingWhenItCannotBePublished) {
  std::filesystem::create_directory(path("folder"));
  {
    NewFile file(path("folder"), GetParam());
    EXPECT_THROW(file.publish(), std::system_error);
  }
  EXPECT_EQ(files(), std::vector<std::string>{"folder"});
  EXPECT_THROW(NewFile(path("no/folder"), GetParam()), std::system_error);
}

INSTANTIATE_TEST_SUITE_P(Kinds, NewFileTest,
                         ::testing::Values(NewFile::Kind::Nameless, NewFile::Kind::Named),
                         [](const auto& kind) {
                           return kind.param == NewFile::Kind::Named ? "Named" : "Nameless";
                         });

}  // namespace
}  // namespace lockstep::native

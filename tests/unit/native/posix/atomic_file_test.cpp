// SPDX-License-Identifier: BSD-3-Clause
#include "native/posix/atomic_file.h"

#include "support/reader_test_support.h"

namespace lockstep::native {
namespace {

using data::ByteVector;
using data::text_bytes;

class AtomicFileTest : public data::ReaderTest,
                       public ::testing::WithParamInterface<AtomicFile::Kind> {
 protected:
  static void put(AtomicFile& file, std::uint64_t offset, const std::string& text) {
    file.write(offset, std::as_bytes(std::span(text)));
  }
};

TEST_P(AtomicFileTest, AppearsWholeOrNotAtAll) {
  write("name", text_bytes("before"));
  {
    AtomicFile file(path("name"), GetParam());
    put(file, 3, "lo");
    put(file, 0, "hel");
    EXPECT_EQ(read("name"), text_bytes("before"));
    file.publish();
    EXPECT_EQ(read("name"), text_bytes("hello"));
  }
  EXPECT_EQ(read("name"), text_bytes("hello"));
  {
    AtomicFile file(path("name"), GetParam());
    put(file, 0, "given up");
  }
  EXPECT_EQ(read("name"), text_bytes("hello"));
  EXPECT_EQ(files(), std::vector<std::string>{"name"});
  std::filesystem::create_directory(path("folder"));
  AtomicFile file(path("folder"), GetParam());
  EXPECT_THROW(file.publish(), std::system_error);
}

TEST_P(AtomicFileTest, LeavesNothingWhenItCannotBePublished) {
  std::filesystem::create_directory(path("folder"));
  {
    AtomicFile file(path("folder"), GetParam());
    EXPECT_THROW(file.publish(), std::system_error);
  }
  EXPECT_EQ(files(), std::vector<std::string>{"folder"});
  EXPECT_THROW(AtomicFile(path("no/folder"), GetParam()), std::system_error);
}

INSTANTIATE_TEST_SUITE_P(Kinds, AtomicFileTest,
                         ::testing::Values(AtomicFile::Kind::Nameless, AtomicFile::Kind::Named),
                         [](const auto& kind) {
                           return kind.param == AtomicFile::Kind::Named ? "Named" : "Nameless";
                         });

}  // namespace
}  // namespace lockstep::native

-- The business side of the examples: what a shop had before it sent anything.

CREATE SCHEMA shop;

CREATE TABLE shop.orders (
  id         bigint        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  created_at timestamptz   NOT NULL DEFAULT now(),
  customer   text          NOT NULL,
  email      text          NOT NULL,
  total      numeric(12,2) NOT NULL
);
